using Skein.Workloads;

namespace Skein.Cli.Doctor;

/// <summary>The data that some workloads need and Skein does not bring.</summary>
internal static class ImageChecks
{
    public static Finding Images()
    {
        const string Name = "images";
        const string Remedy = "only for fashion-mnist, whose first training fetches them: skein train fashion-mnist --max-steps 1";
        try
        {
            return Workload.Find("fashion-mnist")!.External!.Find() is { } folder
                ? Finding.Ok(Name, $"Fashion-MNIST is in {folder}")
                : Finding.Absent(Name, "Fashion-MNIST is not on this machine", Remedy);
        }
        catch (FileNotFoundException error)
        {
            return Finding.Absent(Name, error.Message, "only for fashion-mnist: unset SKEIN_DATA_DIR, and its first training fetches them");
        }
    }
}
