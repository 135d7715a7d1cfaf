// A stand-in for CUDA's driver, libcuda.so.1: device memory is host memory.
//
// Stricter than a card: what is enqueued runs when the stream is waited for and not before, a call
// without a current context fails, freed memory is filled, and a stream that waits for the default
// stream is refused. What is made and not given back is counted, by kind.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101 };
enum { INVALID_CONTEXT = 201, INVALID_HANDLE = 400, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { MAJOR = 75, MINOR = 76, INTEGRATED = 18, MEMORY_TYPE = 2, DEVICE_ORDINAL = 9, NON_BLOCKING = 1, MOST = 4096 };

// How the card is, what was done on it, and how it fails: tests set and read these.
int stand_in_devices = 1, stand_in_driver = 13000, stand_in_capability = 87, stand_in_integrated = 0;
// What our kernels' library did, and the status of its launches.
int stand_in_fits = 0, stand_in_kernel_status = 0;
int stand_in_launches = 0, stand_in_uploads = 0, stand_in_defaults = 0, stand_in_instantiate_status = 0;
size_t stand_in_memory = (size_t)1 << 30, stand_in_used = 0;
uintptr_t stand_in_waited = 0, stand_in_elsewhere = 0;
// Nobody's: what is left in these is a leak.
int stand_in_contexts, stand_in_streams, stand_in_events, stand_in_allocations, stand_in_graphs, stand_in_executables;
// What was allocated on the device so far, and the allocation from which on there is no memory.
int stand_in_allocated = 0, stand_in_fails_from = 0;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread uintptr_t stack[64];
static __thread int depth;
static uintptr_t const PRIMARY = 0xC0FFEE;

typedef void (*HostFunction)(void*);
typedef struct Event { double at; } Event;
typedef struct Work {
    HostFunction function;
    void *target, *source;
    size_t size;
    Event* event;
} Work;
typedef struct Queue { Work* work; size_t count; } Queue;
typedef struct Stream { Queue queue, recorded; int capturing, invalid; } Stream;

static struct { uintptr_t base, pointer; size_t size; int is_host; } memory[MOST];

#define EXPORT __attribute__((visibility("default"))) int
#define NEEDS_CONTEXT if (depth == 0 || stand_in_contexts == 0) return INVALID_CONTEXT

int stand_in_depth(void) { return depth; }
uintptr_t stand_in_current(void) { return depth ? stack[depth - 1] : 0; }

EXPORT cuInit(unsigned flags) { return stand_in_devices ? SUCCESS : NO_DEVICE; }
EXPORT cuDriverGetVersion(int* version) { *version = stand_in_driver; return SUCCESS; }
EXPORT cuDeviceGetCount(int* count) { *count = stand_in_devices; return SUCCESS; }
EXPORT cuDeviceGet(int* device, int index)
{
    *device = index;
    return index < stand_in_devices ? SUCCESS : INVALID_DEVICE;
}
EXPORT cuDeviceGetName(char* name, int length, int device)
{
    memset(name, ' ', length); /* a real driver leaves something behind the end too */
    strncpy(name, "Stand-in", sizeof "Stand-in");
    return SUCCESS;
}
EXPORT cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = stand_in_memory; return SUCCESS; }
EXPORT cuDeviceGetAttribute(int* value, int attribute, int device)
{
    *value = attribute == MAJOR ? stand_in_capability / 10
        : attribute == MINOR ? stand_in_capability % 10
        : attribute == INTEGRATED ? stand_in_integrated : 0;
    return SUCCESS;
}
EXPORT cuDeviceComputeCapability(int* major, int* minor, int device)
{
    *major = stand_in_capability / 10;
    *minor = stand_in_capability % 10;
    return SUCCESS;
}
EXPORT cuGetErrorString(int status, char const** text)
{
    *text = status == OUT_OF_MEMORY ? "out of memory"
        : status == NO_DEVICE ? "no CUDA-capable device is detected"
        : status == INVALID_CONTEXT ? "invalid device context"
        : status == CAPTURE_UNSUPPORTED ? "operation not permitted when stream is capturing"
        : status == CAPTURE_INVALIDATED ? "operation failed due to a previous error during capture"
        : status == INVALID_VALUE ? "invalid argument" : "unknown error";
    return SUCCESS;
}

// The newest form of a function of ours, as a driver hands it out to a binding.
EXPORT cuGetProcAddress_v2(char const* name, void** function, int version, uint64_t flags, int* found)
{
    static void* self;
    Dl_info info;
    if (self == NULL && dladdr((void*)cuInit, &info)) self = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    char newest[128];
    snprintf(newest, sizeof(newest), "%s_v2", name);
    *function = dlsym(self, newest);
    if (*function == NULL) *function = dlsym(self, name);
    if (found) *found = *function ? 0 : 1;
    return *function ? SUCCESS : 500;
}

// Contexts.

EXPORT cuDevicePrimaryCtxRetain(uintptr_t* context, int device)
{
    pthread_mutex_lock(&lock);
    ++stand_in_contexts;
    pthread_mutex_unlock(&lock);
    *context = PRIMARY;
    return SUCCESS;
}
EXPORT cuDevicePrimaryCtxRelease_v2(int device)
{
    pthread_mutex_lock(&lock);
    int status = stand_in_contexts > 0 ? SUCCESS : INVALID_CONTEXT;
    if (status == SUCCESS) --stand_in_contexts;
    pthread_mutex_unlock(&lock);
    return status;
}
EXPORT cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active)
{
    *flags = 0;
    *active = stand_in_contexts > 0;
    return SUCCESS;
}
EXPORT cuCtxGetCurrent(uintptr_t* context) { *context = stand_in_current(); return SUCCESS; }
EXPORT cuCtxPushCurrent_v2(uintptr_t context) { stack[depth++] = context; return SUCCESS; }
EXPORT cuCtxPopCurrent_v2(uintptr_t* context)
{
    if (depth == 0) return INVALID_CONTEXT;
    --depth;
    if (context) *context = stack[depth];
    return SUCCESS;
}

// Memory, on 256 bytes as the driver's.

static int allocate(uintptr_t* pointer, size_t size, int is_host)
{
    NEEDS_CONTEXT;
    int status = OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    size_t const used = is_host ? 0 : size;
    if (!is_host) ++stand_in_allocated;
    int const fails = !is_host && stand_in_fails_from && stand_in_allocated >= stand_in_fails_from;
    for (int i = 0; i < MOST && !fails && stand_in_used + used <= stand_in_memory / 2; ++i) {
        if (memory[i].pointer == 0) {
            memory[i].base = (uintptr_t)malloc(size + 256);
            *pointer = memory[i].pointer = (memory[i].base + 255) / 256 * 256;
            memory[i].size = size;
            memory[i].is_host = is_host;
            stand_in_used += used;
            ++stand_in_allocations;
            status = SUCCESS;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return status;
}
static int release(uintptr_t pointer, int is_host)
{
    NEEDS_CONTEXT;
    int status = INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST; ++i) {
        if (pointer != 0 && memory[i].pointer == pointer && memory[i].is_host == is_host) {
            memset((void*)pointer, 0xEE, memory[i].size);
            if (!is_host) stand_in_used -= memory[i].size;
            free((void*)memory[i].base);
            memory[i].pointer = 0;
            --stand_in_allocations;
            status = SUCCESS;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return status;
}
EXPORT cuMemAlloc_v2(uintptr_t* pointer, size_t size) { return allocate(pointer, size, 0); }
EXPORT cuMemFree_v2(uintptr_t pointer) { return release(pointer, 0); }
EXPORT cuMemHostAlloc(uintptr_t* pointer, size_t size, unsigned flags) { return allocate(pointer, size, 1); }
EXPORT cuMemFreeHost(uintptr_t pointer) { return release(pointer, 1); }
EXPORT cuMemHostGetDevicePointer_v2(uintptr_t* device, uintptr_t host, unsigned flags)
{
    *device = host;
    return SUCCESS;
}
EXPORT cuMemGetInfo_v2(size_t* available, size_t* total)
{
    NEEDS_CONTEXT;
    *total = stand_in_memory;
    *available = stand_in_memory / 2 - stand_in_used; // other programs have the other half
    return SUCCESS;
}
EXPORT cuPointerGetAttribute(void* value, int attribute, uintptr_t pointer)
{
    NEEDS_CONTEXT;
    if (attribute != DEVICE_ORDINAL && attribute != MEMORY_TYPE) return INVALID_VALUE;
    int status = INVALID_VALUE, is_host = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST; ++i)
        if (memory[i].pointer && pointer >= memory[i].pointer && pointer < memory[i].pointer + memory[i].size) {
            status = SUCCESS;
            is_host = memory[i].is_host;
        }
    pthread_mutex_unlock(&lock);
    if (status != SUCCESS) return status;
    *(int*)value = attribute == MEMORY_TYPE ? (is_host ? 1 : 2) : stand_in_elsewhere && pointer == stand_in_elsewhere;
    return SUCCESS;
}

// Streams and events.

static void push(Queue* queue, Work work)
{
    queue->work = realloc(queue->work, (queue->count + 1) * sizeof(Work));
    queue->work[queue->count++] = work;
}
static int add(Stream* stream, Work work)
{
    NEEDS_CONTEXT;
    if (stream == NULL) return INVALID_HANDLE;
    push(stream->capturing ? &stream->recorded : &stream->queue, work);
    return SUCCESS;
}
EXPORT cuStreamCreate(Stream** stream, unsigned flags)
{
    NEEDS_CONTEXT;
    // On a blocking stream a capture fails as soon as torch works in another thread.
    if (flags != NON_BLOCKING) return INVALID_VALUE;
    *stream = calloc(1, sizeof(Stream));
    ++stand_in_streams;
    return SUCCESS;
}
EXPORT cuStreamDestroy_v2(Stream* stream)
{
    NEEDS_CONTEXT;
    free(stream->queue.work);
    free(stream);
    --stand_in_streams;
    return SUCCESS;
}
EXPORT cuStreamSynchronize(Stream* stream)
{
    NEEDS_CONTEXT;
    if ((uintptr_t)stream < 16) { // CUDA's default streams, and one that tests name
        ++stand_in_defaults;
        return SUCCESS;
    }
    stand_in_waited = (uintptr_t)stream;
    if (stream->capturing) {
        stream->invalid = 1;
        return CAPTURE_UNSUPPORTED;
    }
    for (size_t i = 0; i < stream->queue.count; ++i) {
        Work const work = stream->queue.work[i];
        if (work.event) {
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            work.event->at = 1e3 * now.tv_sec + 1e-6 * now.tv_nsec;
        } else if (work.function) {
            work.function(work.target);
        } else {
            memmove(work.target, work.source, work.size);
        }
    }
    stream->queue.count = 0;
    return SUCCESS;
}
EXPORT cuStreamIsCapturing(Stream* stream, int* status)
{
    *status = stream->capturing;
    return SUCCESS;
}
EXPORT cuLaunchHostFunc(Stream* stream, HostFunction function, void* argument)
{
    return add(stream, (Work){function, argument, NULL, 0, NULL});
}
EXPORT cuMemcpyHtoDAsync_v2(void* target, void* source, size_t size, Stream* stream)
{
    ++stand_in_uploads;
    return add(stream, (Work){NULL, target, source, size, NULL});
}
EXPORT cuMemcpyDtoHAsync_v2(void* target, void* source, size_t size, Stream* stream)
{
    return add(stream, (Work){NULL, target, source, size, NULL});
}
EXPORT cuMemcpyDtoDAsync_v2(void* target, void* source, size_t size, Stream* stream)
{
    return add(stream, (Work){NULL, target, source, size, NULL});
}
EXPORT cuEventCreate(Event** event, unsigned flags)
{
    NEEDS_CONTEXT;
    *event = calloc(1, sizeof(Event));
    ++stand_in_events;
    return SUCCESS;
}
EXPORT cuEventDestroy_v2(Event* event)
{
    NEEDS_CONTEXT;
    free(event);
    --stand_in_events;
    return SUCCESS;
}
EXPORT cuEventRecord(Event* event, Stream* stream) { return add(stream, (Work){NULL, NULL, NULL, 0, event}); }
EXPORT cuEventElapsedTime(float* milliseconds, Event* start, Event* end)
{
    *milliseconds = (float)(end->at - start->at);
    return SUCCESS;
}
// The same since CUDA 13.
EXPORT cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end)
{
    return cuEventElapsedTime(milliseconds, start, end);
}

// Graphs.

EXPORT cuStreamBeginCapture_v2(Stream* stream, int mode)
{
    NEEDS_CONTEXT;
    stream->capturing = 1;
    stream->invalid = 0;
    stream->recorded = (Queue){NULL, 0};
    return SUCCESS;
}
EXPORT cuStreamEndCapture(Stream* stream, Queue** graph)
{
    NEEDS_CONTEXT;
    stream->capturing = 0;
    *graph = NULL;
    if (stream->invalid) {
        free(stream->recorded.work);
        return CAPTURE_INVALIDATED;
    }
    *graph = malloc(sizeof(Queue));
    **graph = stream->recorded;
    ++stand_in_graphs;
    return SUCCESS;
}
EXPORT cuGraphInstantiateWithFlags(Queue** executable, Queue* graph, unsigned long long flags)
{
    NEEDS_CONTEXT;
    if (stand_in_instantiate_status) return stand_in_instantiate_status;
    *executable = calloc(1, sizeof(Queue));
    for (size_t i = 0; i < graph->count; ++i) push(*executable, graph->work[i]);
    ++stand_in_executables;
    return SUCCESS;
}
static void drop(Queue* queue)
{
    free(queue->work);
    free(queue);
}
EXPORT cuGraphDestroy(Queue* graph)
{
    if (graph == NULL) return INVALID_VALUE;
    drop(graph);
    --stand_in_graphs;
    return SUCCESS;
}
EXPORT cuGraphExecDestroy(Queue* executable)
{
    NEEDS_CONTEXT;
    drop(executable);
    --stand_in_executables;
    return SUCCESS;
}
EXPORT cuGraphLaunch(Queue* executable, Stream* stream)
{
    ++stand_in_launches;
    int status = SUCCESS;
    for (size_t i = 0; i < executable->count && status == SUCCESS; ++i) status = add(stream, executable->work[i]);
    return status;
}
