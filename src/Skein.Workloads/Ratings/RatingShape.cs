namespace Skein.Workloads.Ratings;

/// <summary>
/// How many different values each feature of a rating has. Features are int64 [n, 6], a column for each parameter in this order, of
/// indices from 0; ratings are float32 [n].
/// </summary>
/// <param name="Users">Who rates: the students.</param>
/// <param name="Items">What is rated: the lecturers.</param>
/// <param name="Departments">The department, which belongs to the item.</param>
/// <param name="UserAges">The student's semester, which belongs to the user.</param>
/// <param name="LectureAges">How long ago the lecture was.</param>
/// <param name="Services">Whether the lecture was for another department.</param>
public sealed record RatingShape(long Users, long Items, int Departments = 14, int UserAges = 4, int LectureAges = 6, int Services = 2)
{
    internal const int User = 0, Item = 1, Department = 2, UserAge = 3, LectureAge = 4, Service = 5;
    internal const int Columns = 6;
}
