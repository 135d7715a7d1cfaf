// Pillow's bilinear filter, which becomes wider when the picture shrinks, in its whole numbers.
//
// Columns first, unless the rows are what makes the picture small; the result is rounded to bytes in
// between, as Pillow does it.
#include "pixels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "clones.h"

namespace degmix
{
namespace
{

constexpr int32_t kBITS = 22;
constexpr int32_t kROUND = 1 << (kBITS - 1);

// Output i is the sum of `weights[i * most + k]` times input `first[i] + k`, for k below `count[i]`.
struct Filter
{
    int64_t most;
    std::vector<int64_t> first;
    std::vector<int64_t> count;
    std::vector<int32_t> weights;
};

Filter filterOf(int64_t from, int64_t to)
{
    double const scale = static_cast<double>(from) / static_cast<double>(to);
    double const support = std::max(scale, 1.0);
    Filter filter{static_cast<int64_t>(std::ceil(support)) * 2 + 1, {}, {}, {}};
    filter.first.resize(to);
    filter.count.resize(to);
    filter.weights.assign(to * filter.most, 0);
    std::vector<double> exact(filter.most);
    for (int64_t i = 0; i < to; ++i)
    {
        double const centre = (static_cast<double>(i) + 0.5) * scale;
        int64_t const begin = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
        int64_t const end = std::min<int64_t>(static_cast<int64_t>(centre + support + 0.5), from);
        double total = 0;
        for (int64_t k = 0; k < end - begin; ++k)
        {
            double const away = std::abs((static_cast<double>(k + begin) - centre + 0.5) / support);
            exact[k] = std::max(0.0, 1.0 - away);
            total += exact[k];
        }
        for (int64_t k = 0; k < end - begin; ++k)
        {
            filter.weights[i * filter.most + k] = static_cast<int32_t>(exact[k] / total * (1 << kBITS) + 0.5);
        }
        filter.first[i] = begin;
        filter.count[i] = end - begin;
    }
    return filter;
}

// A pixel and its neighbour's first channel.
typedef int32_t Quad __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(4)));

DEGMIX_INLINE Quad load(int32_t const* pixel)
{
    Quad quad;
    std::memcpy(&quad, pixel, sizeof quad);
    return quad;
}

DEGMIX_INLINE void store(Quad sum, uint8_t* pixel)
{
    Quad const most = {255, 255, 255, 255};
    Quad const level = sum >> kBITS;
    Bytes const bytes = __builtin_convertvector(level > most ? most : level, Bytes);
    std::memcpy(pixel, &bytes, 3);
}

// `kROWS` rows share each weight. `wide` holds them as whole numbers, with one more behind each.
template <int64_t kROWS>
DEGMIX_INLINE void acrossRows(Picture const& rows, Filter const& filter, int32_t* wide, uint8_t* out)
{
    int64_t const width = static_cast<int64_t>(filter.first.size());
    int64_t const pitch = 3 * rows.width + 1;
    for (int64_t row = 0; row < kROWS; ++row)
    {
        std::copy_n(rows.data + row * rows.pitch, 3 * rows.width, wide + row * pitch);
    }
    for (int64_t x = 0; x < width; ++x)
    {
        int32_t const* weights = filter.weights.data() + x * filter.most;
        int32_t const* pixel = wide + 3 * filter.first[x];
        Quad sums[kROWS];
        std::fill_n(sums, kROWS, Quad{kROUND, kROUND, kROUND, kROUND});
        for (int64_t k = 0; k < filter.count[x]; ++k, pixel += 3)
        {
            for (int64_t row = 0; row < kROWS; ++row)
            {
                sums[row] += load(pixel + row * pitch) * weights[k];
            }
        }
        for (int64_t row = 0; row < kROWS; ++row)
        {
            store(sums[row], out + 3 * (row * width + x));
        }
    }
}

constexpr int64_t kTOGETHER = 4;

// Each row at the filter's width; `wide` has room for kTOGETHER rows.
DEGMIX_CLONES void across(Picture const& picture, Filter const& filter, int32_t* wide, uint8_t* out)
{
    int64_t const pitch = 3 * static_cast<int64_t>(filter.first.size());
    Picture rows = picture;
    int64_t left = picture.height;
    for (; left >= kTOGETHER; left -= kTOGETHER)
    {
        acrossRows<kTOGETHER>(rows, filter, wide, out);
        rows.data += kTOGETHER * rows.pitch;
        out += kTOGETHER * pitch;
    }
    for (; left > 0; --left)
    {
        acrossRows<1>(rows, filter, wide, out);
        rows.data += rows.pitch;
        out += pitch;
    }
}

// Rows of bytes, as many as the filter has; `sums` holds one row.
DEGMIX_CLONES void down(Picture const& picture, Filter const& filter, int32_t* sums, uint8_t* out)
{
    int64_t const bytes = 3 * picture.width;
    for (int64_t y = 0; y < static_cast<int64_t>(filter.first.size()); ++y)
    {
        int32_t const* weights = filter.weights.data() + y * filter.most;
        uint8_t const* row = picture.data + filter.first[y] * picture.pitch;
        std::fill(sums, sums + bytes, kROUND);
        for (int64_t k = 0; k < filter.count[y]; ++k, row += picture.pitch)
        {
            int32_t const weight = weights[k];
            for (int64_t x = 0; x < bytes; ++x)
            {
                sums[x] += row[x] * weight;
            }
        }
        for (int64_t x = 0; x < bytes; ++x)
        {
            out[y * bytes + x] = static_cast<uint8_t>(std::min(sums[x] >> kBITS, 255));
        }
    }
}

} // namespace

bool resizeRgb(Picture const& picture, int64_t height, int64_t width, uint8_t* rgb) noexcept
{
    try
    {
        Filter const columns = filterOf(picture.width, width);
        Filter const rows = filterOf(picture.height, height);
        bool const isRowsFirst = height < picture.height && height * picture.width < picture.height * width;
        int64_t const middleWidth = isRowsFirst ? picture.width : width;
        int64_t const middleHeight = isRowsFirst ? height : picture.height;
        std::vector<uint8_t> middle(3 * middleHeight * middleWidth);
        std::vector<int32_t> wide(kTOGETHER * (3 * picture.width + 1));
        std::vector<int32_t> sums(3 * middleWidth);
        Picture const half{middle.data(), 3 * middleWidth, middleHeight, middleWidth};
        if (isRowsFirst)
        {
            down(picture, rows, sums.data(), middle.data());
            across(half, columns, wide.data(), rgb);
        }
        else
        {
            across(picture, columns, wide.data(), middle.data());
            down(half, rows, sums.data(), rgb);
        }
        return true;
    }
    catch (std::bad_alloc const&)
    {
        return false;
    }
}

} // namespace degmix

char const* degmix_pixels_version() noexcept
{
    return "1";
}

int32_t degmix_pixels_to_rgb(
    uint8_t const* frame, int32_t packing, int64_t height, int64_t width, uint8_t* rgb) noexcept
{
    return degmix::toRgb(frame, static_cast<degmix::Packing>(packing), height, width, rgb) ? 0 : 1;
}

int32_t degmix_pixels_resize(degmix::Picture const* picture, int64_t height, int64_t width, uint8_t* rgb) noexcept
{
    return degmix::resizeRgb(*picture, height, width, rgb) ? 0 : 1;
}
