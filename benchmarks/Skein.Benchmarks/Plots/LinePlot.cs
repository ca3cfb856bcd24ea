using System.Globalization;
using System.Net;
using System.Text;

namespace Skein.Benchmarks.Plots;

/// <summary>
/// A line plot as SVG, for pages that are light or dark: text and axes take the page's colour scheme, and the lines'
/// colours (Okabe and Ito 2008, told apart by the colour-blind) stand out on both.
/// </summary>
internal sealed record LinePlot(string Title, string XLabel, string YLabel, IReadOnlyList<PlotLine> Lines)
{
    private const double Width = 760, Height = 440, Left = 70, Right = 20, Top = 44, Bottom = 56;
    private const int MostPoints = 300, Ticks = 6;

    private static readonly string[] Colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"];

    /// <summary>Where the axis of Y ends; what is above is cut. Null: the largest value.</summary>
    public double? Highest { get; init; }

    public void Save(string path)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        File.WriteAllText(path, ToSvg());
    }

    private string ToSvg()
    {
        PlotPoint[] all = [.. Lines.SelectMany(static line => line.Points).Where(static point => double.IsFinite(point.Y))];
        Axis x = Axis.Over(0, all.Max(static point => point.X), Ticks);
        Axis y = Axis.Over(Math.Min(0, all.Min(static point => point.Y)), Highest ?? all.Max(static point => point.Y), Ticks);
        var svg = new StringBuilder();
        svg.AppendLine($"""
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {Width} {Height}" font-family="system-ui, 'DejaVu Sans', sans-serif" font-size="13">
              <title>{WebUtility.HtmlEncode(Title)}</title>
              <style>
                .page {"{"} fill: #ffffff {"}"} text {"{"} fill: #24292f {"}"} .grid {"{"} stroke: #d0d7de; stroke-width: 1 {"}"} .axis {"{"} stroke: #57606a; stroke-width: 1.5 {"}"}
                @media (prefers-color-scheme: dark) {"{"}
                  .page {"{"} fill: #0d1117 {"}"} text {"{"} fill: #e6edf3 {"}"} .grid {"{"} stroke: #30363d {"}"} .axis {"{"} stroke: #8b949e {"}"}
                {"}"}
              </style>
              <clipPath id="inside"><rect x="{Left}" y="{Top}" width="{Width - Left - Right}" height="{Height - Top - Bottom}"/></clipPath>
              <rect class="page" width="{Width}" height="{Height}" rx="6"/>
              <text x="{Left}" y="26" font-size="15" font-weight="600">{WebUtility.HtmlEncode(Title)}</text>
            """);
        foreach (double tick in x.Ticks)
        {
            svg.AppendLine($"""  <path class="grid" d="M{Number(X(tick))} {Top}V{Height - Bottom}"/><text x="{Number(X(tick))}" y="{Height - Bottom + 20}" text-anchor="middle">{Label(tick)}</text>""");
        }

        foreach (double tick in y.Ticks)
        {
            svg.AppendLine($"""  <path class="grid" d="M{Left} {Number(Y(tick))}H{Width - Right}"/><text x="{Left - 10}" y="{Number(Y(tick) + 4.5)}" text-anchor="end">{Label(tick)}</text>""");
        }

        svg.AppendLine($"""
              <path class="axis" fill="none" d="M{Left} {Top}V{Height - Bottom}H{Width - Right}"/>
              <text x="{(Left + Width - Right) / 2}" y="{Height - 12}" text-anchor="middle">{WebUtility.HtmlEncode(XLabel)}</text>
              <text x="18" y="{(Top + Height - Bottom) / 2}" text-anchor="middle" transform="rotate(-90 18 {(Top + Height - Bottom) / 2})">{WebUtility.HtmlEncode(YLabel)}</text>
            """);
        foreach ((int index, PlotLine line) in Lines.Index()) AppendLine(svg, line, Colours[index % Colours.Length], point => $"{Number(X(point.X))} {Number(Y(point.Y))}");
        AppendLegend(svg);
        return svg.AppendLine("</svg>").ToString();

        double X(double value) => Left + ((Width - Left - Right) * x.Place(value));

        double Y(double value) => Height - Bottom - ((Height - Top - Bottom) * y.Place(value));
    }

    private static void AppendLine(StringBuilder svg, PlotLine line, string colour, Func<PlotPoint, string> place)
    {
        int every = Math.Max(1, line.Points.Count / MostPoints);
        (PlotPoint Point, double Spread)[] points =
        [
            .. line.Points.Select((point, index) => (point, line.Spread.ElementAtOrDefault(index)))
                .Where((entry, index) => (index % every == 0 || index == line.Points.Count - 1) && double.IsFinite(entry.point.Y)),
        ];
        if (line.Spread.Count > 0)
        {
            IEnumerable<string> above = points.Select(entry => place(entry.Point with { Y = entry.Point.Y + entry.Spread }));
            IEnumerable<string> below = points.Reverse().Select(entry => place(entry.Point with { Y = entry.Point.Y - entry.Spread }));
            svg.AppendLine($"""  <path clip-path="url(#inside)" fill="{colour}" fill-opacity="0.18" d="M{string.Join('L', above.Concat(below))}Z"/>""");
        }

        svg.AppendLine($"""  <path clip-path="url(#inside)" fill="none" stroke="{colour}" stroke-width="2.2" stroke-linejoin="round" d="M{string.Join('L', points.Select(entry => place(entry.Point)))}"/>""");
    }

    private void AppendLegend(StringBuilder svg)
    {
        double width = 46 + (7.4 * Lines.Max(static line => line.Name.Length)), left = Width - Right - width - 8;
        svg.AppendLine($"""  <rect class="page" x="{Number(left)}" y="{Top + 6}" width="{Number(width)}" height="{(22 * Lines.Count) + 10}" fill-opacity="0.85" rx="4"/>""");
        foreach ((int index, PlotLine line) in Lines.Index())
        {
            double y = Top + 22 + (22 * index);
            svg.AppendLine(
                $"""  <path stroke="{Colours[index % Colours.Length]}" stroke-width="3" d="M{Number(left + 8)} {Number(y)}h22"/><text x="{Number(left + 38)}" y="{Number(y + 4.5)}">{WebUtility.HtmlEncode(line.Name)}</text>""");
        }
    }

    private static string Number(double value) => value.ToString("0.#", CultureInfo.InvariantCulture);

    private static string Label(double value) => Math.Round(value, 6).ToString("#,0.######", CultureInfo.InvariantCulture);

    private sealed record Axis(double From, double To, double[] Ticks)
    {
        /// <summary>Round steps of 1, 2 or 5 times a power of ten.</summary>
        public static Axis Over(double from, double to, int ticks)
        {
            double rough = Math.Max(to - from, 1e-9) / ticks, power = Math.Pow(10, Math.Floor(Math.Log10(rough)));
            double step = power * (rough / power) switch { <= 1 => 1, <= 2 => 2, <= 5 => 5, _ => 10 };
            int first = (int)Math.Ceiling(from / step), last = (int)Math.Floor((to / step) + 1e-9);
            return new Axis(from, to, [.. Enumerable.Range(first, last - first + 1).Select(i => i * step)]);
        }

        public double Place(double value) => (value - From) / (To - From);
    }
}
