using System.Diagnostics;
using TorchSharp;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>How fast a device multiplies matrices: what a training's speed is measured against.</summary>
public static class PeakFlops
{
    private const int ProcessorSize = 1024;
    private const int AcceleratorSize = 8192;
    private const int Products = 8;
    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(0.5);

    /// <summary>
    /// The most floating-point operations in a second that a product of two square float32 matrices reached on
    /// <paramref name="device"/>, with this process's threads, within half a second. What else runs on the machine lowers it.
    /// </summary>
    public static double Measure(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        int size = device.type == DeviceType.CPU ? ProcessorSize : AcceleratorSize;
        int products = device.type == DeviceType.CPU ? 1 : Products;
        Tensor left = ones([size, size], float32, device), right = ones_like(left);
        double shortest = double.PositiveInfinity;
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start) < Duration)
        {
            long begin = Stopwatch.GetTimestamp();
            for (int i = 0; i < products; i++)
            {
                using Tensor product = left.matmul(right);
                if (i < products - 1) continue;
                // An accelerator still works when the call has returned: reading a number waits for it.
                using Tensor first = product[0, 0];
                _ = first.item<float>();
            }

            shortest = Math.Min(shortest, Stopwatch.GetElapsedTime(begin).TotalSeconds);
        }

        return 2.0 * size * size * size * products / shortest;
    }
}
