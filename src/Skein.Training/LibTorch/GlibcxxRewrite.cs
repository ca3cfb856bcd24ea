using System.Buffers.Binary;
using System.Text;

namespace Skein.Training.LibTorch;

/// <summary>
/// Removes the only need of <c>libLibTorchSharp.so</c> for GCC 13's libstdc++, so that it loads where GCC 12's is installed.
/// </summary>
/// <remarks>
/// The library imports one symbol of version <c>GLIBCXX_3.4.32</c>: <c>std::ios_base_library_init()</c>, which makes sure that the
/// iostreams exist. <c>libtorch_cpu.so</c>, loaded before, was built with an older compiler and creates them itself. So the import is
/// turned into another one that the library has anyway, takes no argument and changes nothing, <c>steady_clock::now()</c>, and the
/// required version into <c>GLIBCXX_3.4.30</c>. No byte is inserted or moved.
/// </remarks>
internal static class GlibcxxRewrite
{
    internal const string MissingVersion = "GLIBCXX_3.4.32";
    internal const string PresentVersion = "GLIBCXX_3.4.30";
    private const string StandardLibrary = "libstdc++.so.6";
    private const string Initializer = "_ZSt21ios_base_library_initv";
    private const string HarmlessFunction = "_ZNSt6chrono3_V212steady_clock3nowEv";

    private const int SymbolSize = 24;
    private const int SectionHeaderSize = 64;
    private const uint NoBits = 8;
    private const uint DynamicSymbols = 11;
    private const uint VersionsNeeded = 0x6ffffffe;
    private const uint SymbolVersions = 0x6fffffff;

    /// <summary>Returns the rewritten library.</summary>
    /// <exception cref="InvalidDataException">The file is not laid out as expected; nothing can be said about a rewritten form.</exception>
    internal static byte[] Apply(ReadOnlySpan<byte> original)
    {
        byte[] image = original.ToArray();
        Section[] sections = Section.ReadAll(image);
        Section symbols = Find(sections, DynamicSymbols, ".dynsym");
        Section needs = Find(sections, VersionsNeeded, ".gnu.version_r");
        Section versions = Find(sections, SymbolVersions, ".gnu.version");
        Section strings = Strings(sections, symbols);

        int missing = FindVersion(image, needs, strings, MissingVersion);
        int present = FindVersion(image, needs, strings, PresentVersion);
        int initializer = FindImport(image, symbols, strings, Initializer);
        int harmless = FindImport(image, symbols, strings, HarmlessFunction);

        ushort missingIndex = U16(image, missing + 6);
        for (int i = 0; i < versions.Length / 2; i++)
        {
            if (i != initializer && U16(image, versions.Offset + 2 * i) == missingIndex)
            {
                throw Unexpected($"symbol {i} needs {MissingVersion} too");
            }
        }

        // vernaux: vna_hash (4), vna_flags (2), vna_other (2), vna_name (4), vna_next (4); only hash and name change.
        Bytes(image, present, 4).CopyTo(Bytes(image, missing, 4));
        Bytes(image, present + 8, 4).CopyTo(Bytes(image, missing + 8, 4));
        // st_name comes first in a symbol.
        Bytes(image, symbols.Offset + harmless * SymbolSize, 4).CopyTo(Bytes(image, symbols.Offset + initializer * SymbolSize, 4));
        Bytes(image, versions.Offset + 2 * harmless, 2).CopyTo(Bytes(image, versions.Offset + 2 * initializer, 2));
        return image;
    }

    /// <summary>Names of the versions of libstdc++ that the library asks for.</summary>
    internal static IReadOnlyList<string> RequiredVersions(byte[] image)
    {
        Section[] sections = Section.ReadAll(image);
        Section needs = Find(sections, VersionsNeeded, ".gnu.version_r");
        return [.. VersionRecords(image, needs, Strings(sections, needs)).Select(record => record.Name)];
    }

    private static Section Find(Section[] sections, uint type, string name)
    {
        int index = Array.FindIndex(sections, section => section.Type == type);
        return index >= 0 ? sections[index] : throw Unexpected($"no section {name}");
    }

    private static Section Strings(Section[] sections, Section user) =>
        user.Link >= 0 && user.Link < sections.Length ? sections[user.Link] : throw Unexpected("a section has no string table");

    private static int FindVersion(byte[] image, Section needs, Section strings, string version)
    {
        foreach ((int offset, string name) in VersionRecords(image, needs, strings))
        {
            if (name == version)
            {
                return offset;
            }
        }

        throw Unexpected($"{StandardLibrary} is not asked for {version}");
    }

    private static List<(int Offset, string Name)> VersionRecords(byte[] image, Section needs, Section strings)
    {
        var records = new List<(int, string)>();
        // verneed: vn_version (2), vn_cnt (2), vn_file (4), vn_aux (4), vn_next (4), the last two relative to the record.
        for (long library = needs.Offset, next = -1; next != 0; library += next)
        {
            next = U32(image, library + 12);
            if (strings.Text(image, U32(image, library + 4)) == StandardLibrary)
            {
                long record = library + U32(image, library + 8);
                for (int left = U16(image, library + 2); left > 0; left--)
                {
                    records.Add(((int)record, strings.Text(image, U32(image, record + 8))));
                    record += U32(image, record + 12);
                }
            }
        }

        return records;
    }

    private static int FindImport(byte[] image, Section symbols, Section strings, string name)
    {
        for (int i = 0; i < symbols.Length / SymbolSize; i++)
        {
            long symbol = symbols.Offset + (long)i * SymbolSize;
            bool undefined = U16(image, symbol + 6) == 0;
            if (undefined && strings.Text(image, U32(image, symbol)) == name)
            {
                return i;
            }
        }

        throw Unexpected($"{name} is not imported");
    }

    private static Span<byte> Bytes(byte[] image, long offset, int length) =>
        offset >= 0 && offset + length <= image.Length
            ? image.AsSpan((int)offset, length)
            : throw Unexpected($"a record at {offset} lies outside the {image.Length} bytes of the file");

    private static ushort U16(byte[] image, long offset) => BinaryPrimitives.ReadUInt16LittleEndian(Bytes(image, offset, 2));

    private static uint U32(byte[] image, long offset) => BinaryPrimitives.ReadUInt32LittleEndian(Bytes(image, offset, 4));

    private static ulong U64(byte[] image, long offset) => BinaryPrimitives.ReadUInt64LittleEndian(Bytes(image, offset, 8));

    private static InvalidDataException Unexpected(string what) => new($"the library is not laid out as expected: {what}");

    private readonly record struct Section(int Offset, int Length, uint Type, int Link)
    {
        internal static Section[] ReadAll(byte[] image)
        {
            bool elf64LittleEndian = Bytes(image, 0, 6).SequenceEqual("\u007fELF\u0002\u0001"u8);
            var sections = new Section[elf64LittleEndian ? U16(image, 60) : throw Unexpected("no 64-bit little-endian ELF file")];
            int header = Within(image, U64(image, 40));
            _ = Bytes(image, header, sections.Length * SectionHeaderSize);
            for (int i = 0; i < sections.Length; i++, header += SectionHeaderSize)
            {
                uint type = U32(image, header + 4);
                bool empty = type is NoBits or 0;
                int offset = empty ? 0 : Within(image, U64(image, header + 24));
                int length = empty ? 0 : Bytes(image, offset, Within(image, U64(image, header + 32))).Length;
                sections[i] = new Section(offset, length, type, (int)U32(image, header + 40));
            }

            return sections;
        }

        internal string Text(byte[] image, uint index)
        {
            ReadOnlySpan<byte> text = index < Length
                ? image.AsSpan(Offset + (int)index, Length - (int)index)
                : throw Unexpected("a name lies outside the string table");
            int end = text.IndexOf((byte)0);
            return end >= 0 ? Encoding.ASCII.GetString(text[..end]) : throw Unexpected("a name has no end");
        }

        private static int Within(byte[] image, ulong value) =>
            value <= (ulong)image.Length ? (int)value : throw Unexpected($"{value} lies outside the {image.Length} bytes of the file");
    }
}
