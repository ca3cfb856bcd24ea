using System.Buffers.Binary;
using System.Text;
using System.Text.Json;
using Skein.Training.Checkpointing;
using static TorchSharp.torch;

namespace Skein.Training.Tests.Checkpointing;

public sealed class SafeTensorsTests : IDisposable
{
    private readonly string directory = Directory.CreateTempSubdirectory("skein-safetensors-").FullName;

    private string FileName => Path.Combine(directory, "model.safetensors");

    public void Dispose() => Directory.Delete(directory, recursive: true);

    [Fact]
    public void What_was_written_is_read()
    {
        using Tensor matrix = randn(3, 4), transposed = matrix.t(), scalar = tensor(2.5f), none = empty(0, 7), half = tensor(new float[] { 1, -2 }).to(bfloat16);
        SafeTensors.Write(FileName, [("b", transposed), ("a", scalar), ("none", none), ("ü", half)]);
        var read = SafeTensors.Read(FileName).ToDictionary(static entry => entry.Name, static entry => entry.Value);
        Assert.Equal(4, read.Count);
        Assert.Equal([4L, 3], read["b"].shape);
        Assert.True(read["b"].eq(transposed).all().item<bool>());
        Assert.Equal([], read["a"].shape);
        Assert.Equal(2.5f, read["a"].item<float>());
        Assert.Equal([0L, 7], read["none"].shape);
        Assert.Equal([1f, -2], read["ü"].data<float>().ToArray());
        Assert.Equal(FileName, Assert.Single(Directory.GetFiles(directory)));
    }

    [Fact]
    public void The_file_is_as_the_format_says()
    {
        SafeTensors.Write(FileName, [("x", tensor(new float[] { 1, 2, 3 })), ("y", tensor(new float[] { 4 }, 1, 1))]);
        byte[] file = File.ReadAllBytes(FileName);
        int length = (int)BinaryPrimitives.ReadUInt64LittleEndian(file);
        Assert.Equal(0, length % 8);
        using JsonDocument header = JsonDocument.Parse(file.AsMemory(8, length));
        Assert.Equal("""{"dtype":"F32","shape":[3],"data_offsets":[0,12]}""", header.RootElement.GetProperty("x").GetRawText());
        Assert.Equal("""{"dtype":"F32","shape":[1,1],"data_offsets":[12,16]}""", header.RootElement.GetProperty("y").GetRawText());
        Assert.Equal(8 + length + 16, file.Length);
        Assert.Equal([1f, 2, 3, 4], Enumerable.Range(0, 4).Select(i => BinaryPrimitives.ReadSingleLittleEndian(file.AsSpan(8 + length + (4 * i)))));
    }

    [Fact]
    public void One_tensor_at_a_time_is_asked_for()
    {
        Tensor? last = null;
        SafeTensors.Write(FileName, Produce());
        Assert.Equal([0f, 1, 2], SafeTensors.Read(FileName).Select(static entry => entry.Value.item<float>()));

        IEnumerable<(string, Tensor)> Produce()
        {
            for (int i = 0; i < 3; i++)
            {
                last?.Dispose();
                yield return ($"{i}", last = tensor((float)i));
            }
        }
    }

    [Fact]
    public void A_failed_write_leaves_the_former_file()
    {
        SafeTensors.Write(FileName, [("x", tensor(1f))]);
        Assert.Throws<ArgumentException>(() => SafeTensors.Write(FileName, [("x", tensor(2f)), ("x", tensor(3f))]));
        Assert.Equal(1f, Assert.Single(SafeTensors.Read(FileName)).Value.item<float>());
    }

    [Fact]
    public void A_model_takes_only_its_own_values()
    {
        using var model = nn.Linear(2, 3);
        using var other = nn.Linear(2, 3);
        SafeTensors.Write(FileName, other.named_parameters().Select(static entry => (entry.name, (Tensor)entry.parameter)));
        SafeTensors.Load(FileName, model);
        Assert.True(model.weight.eq(other.weight).all().item<bool>());
        Assert.True(model.bias!.eq(other.bias!).all().item<bool>());

        Refused("shape [2, 2]", ("weight", zeros(2, 2)), ("bias", zeros(3)));
        Refused("lacks bias", ("weight", zeros(3, 2)));
        Refused("holds more", ("weight", zeros(3, 2)), ("bias", zeros(3)), ("more", zeros(1)));

        void Refused(string reason, params (string, Tensor)[] tensors)
        {
            SafeTensors.Write(FileName, tensors);
            Assert.Contains(reason, Assert.Throws<InvalidDataException>(() => SafeTensors.Load(FileName, model)).Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("""{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}""", 8, "take 4 bytes, but 8")]
    [InlineData("""{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}""", 4, "does not take 4 bytes")]
    [InlineData("""{"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}""", 4, "does not take 4 bytes")]
    [InlineData("""{"x":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}}""", 0, "does not take 0 bytes")]
    [InlineData("""{"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}""", 4, "-1")]
    [InlineData("""{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}""", 8, "instead of 0")]
    [InlineData("""{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}""", 4, "place of x")]
    [InlineData("""{"x":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}""", 4, "type F16")]
    [InlineData("""{"x":{"shape":[1],"data_offsets":[0,4]}}""", 4, "no dtype")]
    [InlineData("""{"x":1}""", 0, "no dtype")]
    [InlineData("""{"x":{"dtype":"\ud800","shape":[1],"data_offsets":[0,4]}}""", 4, "damaged")]
    [InlineData("""{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}""", 8, "damaged")]
    [InlineData("[]", 0, "no JSON object")]
    [InlineData("{", 0, "damaged")]
    public void A_header_that_does_not_fit_is_refused(string header, int values, string reason)
    {
        byte[] json = Encoding.UTF8.GetBytes(header);
        byte[] file = [.. BitConverter.GetBytes((ulong)json.Length), .. json, .. new byte[values]];
        File.WriteAllBytes(FileName, file);
        Assert.Contains(reason, Assert.Throws<InvalidDataException>(() => SafeTensors.Read(FileName).ToArray()).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Metadata_are_passed_over()
    {
        byte[] json = Encoding.UTF8.GetBytes("""{"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}   """);
        File.WriteAllBytes(FileName, [.. BitConverter.GetBytes((ulong)json.Length), .. json, .. BitConverter.GetBytes(3f)]);
        Assert.Equal(3f, Assert.Single(SafeTensors.Read(FileName)).Value.item<float>());
    }

    [Fact]
    public void Damaged_files_are_refused_or_read_never_more()
    {
        SafeTensors.Write(FileName, [("a", zeros(2, 3)), ("b.c", zeros(5)), ("d", zeros(1))]);
        byte[] good = File.ReadAllBytes(FileName);
        var random = new Random(5);
        int refused = 0;
        for (int round = 0; round < 3_000; round++)
        {
            byte[] bad = good[..(random.Next(4) == 0 ? random.Next(good.Length) : good.Length)];
            for (int change = random.Next(4); change >= 0 && bad.Length > 0; change--)
            {
                int place = random.Next(Math.Min(bad.Length, random.Next(2) == 0 ? 8 : 200));
                bad[place] = random.Next(2) == 0 ? (byte)random.Next(256) : (byte)"0123456789,:[]{}\"- "[random.Next(19)];
            }

            File.WriteAllBytes(FileName, bad);
            try
            {
                // What is read takes no more than the file has.
                Assert.InRange(SafeTensors.Read(FileName).Sum(static entry => entry.Value.numel() * sizeof(float)), 0, bad.Length);
            }
            catch (InvalidDataException)
            {
                refused++;
            }
        }

        Assert.InRange(refused, 2_000, 3_000);
    }
}
