using static TorchSharp.torch;

namespace Skein.Training.Data;

/// <summary>How images lie in memory.</summary>
public static class ImageLayout
{
    /// <summary>
    /// The same images [n, c, h, w] with the channels of a pixel side by side in memory. Convolutions keep the layout,
    /// and LibTorch pools it with vector instructions: on a CPU, max pooling is ten times as fast. With one channel
    /// nothing is copied.
    /// </summary>
    public static Tensor ChannelsLast(Tensor images)
    {
        ArgumentNullException.ThrowIfNull(images);
        if (images.dim() != 4) throw new ArgumentException($"images have the shape [n, c, h, w], not [{string.Join(", ", images.shape)}]", nameof(images));
        long[] shape = images.shape;
        // One channel lies the same way in both layouts: only the strides have to say so.
        Tensor last = shape[1] == 1 ? images.reshape(shape[0], shape[2], shape[3], 1) : images.permute(0, 2, 3, 1).contiguous();
        return last.permute(0, 3, 1, 2);
    }
}
