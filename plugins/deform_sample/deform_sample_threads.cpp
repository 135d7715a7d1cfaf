// The C interface of the library: samples on threads of its own.
#include "deform_sample_cpu.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

namespace degmix
{
namespace
{

// A thread costs as long as about this many samples.
constexpr int64_t kLEAST_SAMPLES = 16384;

int64_t threadsOf(DeformSampleParams const& params, int64_t planes, int32_t asked) noexcept
{
    int64_t const samples = planes * params.outHeight * params.outWidth;
    return std::max<int64_t>(1, std::min({static_cast<int64_t>(asked), planes, samples / kLEAST_SAMPLES}));
}

} // namespace
} // namespace degmix

extern "C"
{
    char const* degmixCpuIsa() noexcept
    {
        return degmix::isaName(degmix::chooseIsa());
    }

    int32_t degmixCpuSample(degmix::DeformSampleParams const* params, int64_t planes, int32_t threads) noexcept
    {
        degmix::Isa const isa = degmix::chooseIsa();
        std::atomic<int64_t> next{0};
        std::atomic<bool> failed{false};
        auto const run = [&]
        {
            for (int64_t plane = next++; plane < planes && !failed; plane = next++)
            {
                if (!degmix::deformSamplePlane(*params, plane, isa))
                {
                    failed = true;
                }
            }
        };
        std::vector<std::thread> others;
        try
        {
            for (int64_t i = degmix::threadsOf(*params, planes, threads); i > 1; --i)
            {
                others.emplace_back(run);
            }
        }
        catch (std::exception const&)
        {
            // Fewer threads do the same work.
        }
        run();
        for (std::thread& other : others)
        {
            other.join();
        }
        return failed ? 1 : 0;
    }
}
