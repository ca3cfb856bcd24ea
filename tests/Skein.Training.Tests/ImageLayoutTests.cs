using Skein.Training.Data;
using static TorchSharp.torch;

namespace Skein.Training.Tests;

public class ImageLayoutTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void Channels_last_changes_strides_but_no_value_and_pooling_keeps_it(int channels)
    {
        using var scope = NewDisposeScope();
        Tensor images = Models.Seeded(1, () => randn(2, channels, 6, 4));
        Tensor last = ImageLayout.ChannelsLast(images);
        Tensor pooled = nn.functional.max_pool2d(last, 2);

        Assert.Equal([24L * channels, 1, 4 * channels, channels], last.stride());
        Assert.Equal(images.shape, last.shape);
        Assert.Equal(Values(images), Values(last));
        Assert.Equal(Values(nn.functional.max_pool2d(images, 2)), Values(pooled));
        Assert.Equal([6L * channels, 1, 2 * channels, channels], pooled.stride());
    }

    private static float[] Values(Tensor tensor) => tensor.contiguous().data<float>().ToArray();

    [Fact]
    public void Anything_but_a_batch_of_images_is_refused() => Assert.Throws<ArgumentException>(() => ImageLayout.ChannelsLast(zeros(3, 4)));
}
