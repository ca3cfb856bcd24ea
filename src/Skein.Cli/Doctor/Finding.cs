namespace Skein.Cli.Doctor;

/// <summary>Whether something works here.</summary>
internal enum FindingStatus
{
    /// <summary>It was tried and works.</summary>
    Ok,

    /// <summary>It is not here, and only some jobs need it.</summary>
    Absent,

    /// <summary>It does not work, and training needs it.</summary>
    Failed,
}

/// <summary>What one check found.</summary>
/// <param name="Name">What was checked.</param>
/// <param name="Status">Whether it works.</param>
/// <param name="Detail">What was seen.</param>
/// <param name="Remedy">How to get it, when it does not work.</param>
internal sealed record Finding(string Name, FindingStatus Status, string Detail, string? Remedy = null)
{
    public static Finding Ok(string name, string detail) => new(name, FindingStatus.Ok, detail);

    public static Finding Absent(string name, string detail, string remedy) => new(name, FindingStatus.Absent, detail, remedy);

    public static Finding Failed(string name, string detail, string remedy) => new(name, FindingStatus.Failed, detail, remedy);
}
