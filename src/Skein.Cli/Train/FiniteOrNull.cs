using System.Numerics;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Skein.Cli.Train;

/// <summary>NaN and infinity, for which JSON has no numbers, are written as null, and null is read as NaN.</summary>
internal sealed class FiniteOrNull<T> : JsonConverter<T> where T : struct, IFloatingPointIeee754<T>
{
    public override bool HandleNull => true;

    public override T Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        if (reader.TokenType == JsonTokenType.Null) return T.NaN;
        return typeof(T) == typeof(float) ? T.CreateChecked(reader.GetSingle()) : T.CreateChecked(reader.GetDouble());
    }

    public override void Write(Utf8JsonWriter writer, T value, JsonSerializerOptions options)
    {
        // As a single a single is written with its own, fewer digits.
        if (!T.IsFinite(value)) writer.WriteNullValue();
        else if (value is float single) writer.WriteNumberValue(single);
        else writer.WriteNumberValue(double.CreateChecked(value));
    }
}
