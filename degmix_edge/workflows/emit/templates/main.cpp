// Run model.onnx on one image with ONNX Runtime, and write every map.
//
//     run_model model.onnx image.ppm FOLDER
//
// The image is a binary PPM (P6, 8 bits) of exactly the network's size; kFIT says how an image of
// another size becomes one. For every output, FOLDER/NAME.raw holds the tensor's bytes, and a
// PGM or PPM file shows the map: classes as indices, probabilities as 0 to 255, measures in
// thousandths of their unit (16 bits), and components of unit vectors as (n + 1) / 2 * 255.
//
// `degmix-edge emit cpp` wrote this file. Deformable convolutions need ONNX Runtime 1.25 or later.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace
{

enum class Kind
{
    kCLASS,       // uint8, the index of a class
    kPROBABILITY, // 0 to 1
    kMEASURE,     // 0 or more, in the output's unit
    kVECTOR,      // components of a unit vector, last in the shape
    kRAW          // scores and other numbers, which no picture shows
};

struct Output
{
    char const* name;
    ONNXTensorElementDataType type;
    size_t elementSize;
    Kind kind;
    std::vector<int64_t> shape;
    char const* unit;
    char const* meaning;
    std::vector<char const*> classes;
};

// @CONTRACT@

void writeFile(std::string const& path, std::string const& header, void const* data, size_t size)
{
    std::ofstream file(path, std::ios::binary);
    file << header;
    file.write(static_cast<char const*>(data), static_cast<std::streamsize>(size));
    file.close();
    if (!file)
    {
        throw std::runtime_error(path + ": cannot be written; check that the folder exists");
    }
}

// Skips white space and comments, then reads a number of a PPM header.
int64_t readNumber(std::istream& file)
{
    while ((file >> std::ws).peek() == '#')
    {
        file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    int64_t number = -1;
    file >> number;
    return number;
}

std::vector<uint8_t> readImage(std::string const& path)
{
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    file >> magic;
    int64_t const width = readNumber(file);
    int64_t const height = readNumber(file);
    int64_t const white = readNumber(file);
    if (!file || magic != "P6" || white != 255)
    {
        throw std::runtime_error(path + ": is no binary PPM of 8 bits (P6, 255)");
    }
    if (width != kWIDTH || height != kHEIGHT)
    {
        throw std::runtime_error(path + ": got " + std::to_string(width) + " x " + std::to_string(height)
            + " pixels, expected " + std::to_string(kWIDTH) + " x " + std::to_string(kHEIGHT) + ". " + kFIT);
    }
    file.get();
    std::vector<uint8_t> pixels(static_cast<size_t>(width * height * 3));
    file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
    if (!file)
    {
        throw std::runtime_error(path + ": is cut off");
    }
    return pixels;
}

// Rounds to the nearest whole number of 0 to `largest`, of two equally near ones to the even; NaN becomes 0.
uint32_t rounded(double value, double largest)
{
    return std::isnan(value) ? 0U : static_cast<uint32_t>(std::nearbyint(std::clamp(value, 0.0, largest)));
}

// Width and height of a map (N, H, W) or (N, H, W, C), as a PGM or PPM file begins.
std::string sizeOf(Output const& output)
{
    return std::to_string(output.shape[2]) + " " + std::to_string(output.shape[1]) + "\n";
}

void writePicture(std::string const& stem, Output const& output, float const* values, size_t count)
{
    std::string const size = sizeOf(output);
    std::string bytes;
    bytes.reserve(2 * count);
    if (output.kind == Kind::kMEASURE)
    {
        for (size_t i = 0; i < count; ++i)
        {
            uint32_t const level = rounded(values[i] * 1000.0, 65535.0);
            bytes += static_cast<char>(level >> 8);
            bytes += static_cast<char>(level & 255U);
        }
        writeFile(stem + ".pgm", "P5\n" + size + "65535\n", bytes.data(), bytes.size());
        return;
    }
    bool const isVector = output.kind == Kind::kVECTOR;
    for (size_t i = 0; i < count; ++i)
    {
        double const value = isVector ? (static_cast<double>(values[i]) + 1.0) / 2.0 : values[i];
        bytes += static_cast<char>(rounded(value * 255.0, 255.0));
    }
    writeFile(
        stem + (isVector ? ".ppm" : ".pgm"), (isVector ? "P6\n" : "P5\n") + size + "255\n", bytes.data(), bytes.size());
}

void writeClasses(std::string const& stem, Output const& output, uint8_t const* values, size_t count)
{
    std::string const header = "P5\n" + sizeOf(output) + "255\n";
    writeFile(stem + ".pgm", header, values, count);
    std::array<size_t, 256> pixels{};
    for (size_t i = 0; i < count; ++i)
    {
        ++pixels[values[i]];
    }
    for (size_t index = 0; index < output.classes.size(); ++index)
    {
        if (pixels[index] != 0)
        {
            std::cout << "  " << index << " " << output.classes[index] << ": " << 100 * pixels[index] / count << " %\n";
        }
    }
}

void writeOutput(std::string const& folder, Output const& output, Ort::Value const& value)
{
    auto const info = value.GetTensorTypeAndShapeInfo();
    if (info.GetShape() != output.shape || info.GetElementType() != output.type)
    {
        throw std::runtime_error(std::string(output.name) + ": the model gives another shape or type");
    }
    size_t const count = info.GetElementCount();
    std::string const stem = folder + "/" + output.name;
    std::cout << output.name << " [" << output.unit << "]: " << output.meaning << "\n";
    writeFile(stem + ".raw", "", value.GetTensorRawData(), count * output.elementSize);
    if (output.kind == Kind::kCLASS)
    {
        writeClasses(stem, output, value.GetTensorData<uint8_t>(), count);
    }
    else if (output.kind != Kind::kRAW)
    {
        writePicture(stem, output, value.GetTensorData<float>(), count);
    }
}

void run(char const* model, std::string const& image, std::string const& folder)
{
    std::vector<uint8_t> pixels = readImage(image);
    Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "run_model");
    Ort::Session session(env, model, Ort::SessionOptions());
    std::array<int64_t, 4> const shape{1, kHEIGHT, kWIDTH, 3};
    auto const memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Ort::Value const input
        = Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(), shape.data(), shape.size());
    std::vector<char const*> names;
    for (Output const& output : kOUTPUTS)
    {
        names.push_back(output.name);
    }
    std::vector<Ort::Value> const values
        = session.Run(Ort::RunOptions{nullptr}, &kINPUT, &input, 1, names.data(), names.size());
    for (size_t i = 0; i < values.size(); ++i)
    {
        writeOutput(folder, kOUTPUTS[i], values[i]);
    }
}

} // namespace

int main(int argc, char** argv)
{
    if (argc != 4)
    {
        std::cerr << kABOUT << "\nusage: " << argv[0] << " model.onnx image.ppm FOLDER\n" << kFIT << "\n";
        return 2;
    }
    try
    {
        run(argv[1], argv[2], argv[3]);
    }
    catch (std::exception const& error)
    {
        std::cerr << error.what() << "\n";
        return 1;
    }
    return 0;
}
