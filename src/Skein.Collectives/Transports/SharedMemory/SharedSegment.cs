using System.Globalization;
using System.IO.MemoryMappedFiles;
using Microsoft.Win32.SafeHandles;

namespace Skein.Collectives.Transports.SharedMemory;

/// <summary>
/// Memory that several processes of a host have mapped. On Linux it is a memory file without a name, which the others
/// open through its owner's <c>/proc</c> entry: it can have huge pages and cannot be left behind, however the job
/// ends. Elsewhere it is a temporary file, deleted by its owner once all have mapped it.
/// </summary>
internal sealed unsafe class SharedSegment : IDisposable
{
    private readonly MemoryMappedFile map;
    private readonly MemoryMappedViewAccessor view;
    private readonly FileStream file;
    private readonly string? temporaryPath;

    private SharedSegment(FileStream file, long length, string location, string? temporaryPath)
    {
        this.file = file;
        this.temporaryPath = temporaryPath;
        Location = location;
        Length = length;
        map = MemoryMappedFile.CreateFromFile(
            file, null, length, MemoryMappedFileAccess.ReadWrite, HandleInheritability.None, leaveOpen: true);
        view = map.CreateViewAccessor(0, length, MemoryMappedFileAccess.ReadWrite);
        byte* address = null;
        view.SafeMemoryMappedViewHandle.AcquirePointer(ref address);
        Address = address;
        Posix.AdviseHugePages(address, (nuint)length);
    }

    public byte* Address { get; }

    public long Length { get; }

    /// <summary>What another process of this host passes to <see cref="Open"/>.</summary>
    public string Location { get; }

    /// <summary>Makes a segment of zeros. <paramref name="name"/> shows in diagnostics only.</summary>
    public static SharedSegment Create(string name, long length)
    {
        int descriptor = OperatingSystem.IsLinux() ? Posix.CreateMemoryFile(name) : -1;
        if (descriptor >= 0)
        {
            var handle = new SafeFileHandle(descriptor, ownsHandle: true);
            if (Posix.Truncate(descriptor, length) != 0)
            {
                handle.Dispose();
                throw new IOException($"cannot reserve {length:N0} bytes of shared memory for {name}");
            }

            string location = string.Create(
                CultureInfo.InvariantCulture, $"/proc/{Environment.ProcessId}/fd/{descriptor}");
            return new SharedSegment(new FileStream(handle, FileAccess.ReadWrite, 0), length, location, null);
        }

        string path = Path.Combine(Path.GetTempPath(), name);
        var file = new FileStream(path, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete);
        file.SetLength(length);
        return new SharedSegment(file, length, path, path);
    }

    /// <summary>Maps the segment that another process of this host has made.</summary>
    /// <exception cref="IOException">It cannot be opened: the ranks are not in the same host or container.</exception>
    public static SharedSegment Open(string location, long length) =>
        new(new FileStream(location, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite | FileShare.Delete, 0), length, location, null);

    /// <summary>To be called once all ranks have mapped it: closes the file, which leaves the mappings as they are.</summary>
    public void Seal()
    {
        file.Dispose();
        if (temporaryPath is not null) File.Delete(temporaryPath);
    }

    public void Dispose()
    {
        view.SafeMemoryMappedViewHandle.ReleasePointer();
        view.Dispose();
        map.Dispose();
        Seal();
    }
}
