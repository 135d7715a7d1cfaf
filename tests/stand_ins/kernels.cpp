// Our kernels' library for the stand-in card: what is launched runs emulated when the stream comes to it.
//
// Compiled with the path of the emulated library as EMULATED.
#include "kernels/degmix_kernels.h"

#include <dlfcn.h>

#include <mutex>

extern "C" int cuLaunchHostFunc(void* stream, void (*function)(void*), void* argument);

namespace
{

void* emulated(char const* name)
{
    static void* const library = dlopen(EMULATED, RTLD_NOW | RTLD_LOCAL);
    return dlsym(library, name);
}

void fit(void* argument)
{
    static std::mutex mutex; // the emulation runs one grid at a time
    std::lock_guard<std::mutex> const lock(mutex);
    auto* const params = static_cast<degmix::FitImageParams*>(argument);
    reinterpret_cast<decltype(&degmix_fit_image)>(emulated("degmix_fit_image"))(params, nullptr);
    ++*static_cast<int32_t*>(dlsym(RTLD_DEFAULT, "stand_in_fits"));
    delete params;
}

} // namespace

char const* degmix_kernels_version()
{
    return "1";
}

char const* degmix_error_string(int32_t)
{
    return "no kernel image is available for execution on the device";
}

char const* degmix_fit_image_check(degmix::FitImageParams const* params)
{
    return reinterpret_cast<decltype(&degmix_fit_image_check)>(emulated("degmix_fit_image_check"))(params);
}

int32_t degmix_fit_image(degmix::FitImageParams const* params, void* stream)
{
    int32_t const status = *static_cast<int32_t*>(dlsym(RTLD_DEFAULT, "stand_in_kernel_status"));
    return status != 0 ? status : cuLaunchHostFunc(stream, fit, new degmix::FitImageParams(*params));
}
