using FsCheck;
using FsCheck.Fluent;
using Skein.ParameterServer.Control;

namespace Skein.ParameterServer.Tests.Control;

public class WorkQueueTests
{
    private static readonly Config Configuration = Config.QuickThrowOnFailure.WithMaxTest(300).WithReplay(20260101, 1);

    [Fact]
    public void Every_chunk_is_completed_once_whoever_is_lost() => Prop.ForAll(
        (from chunks in Gen.Choose(0, 40)
         from workers in Gen.Choose(1, 6)
         from losses in Gen.Choose(0, 60)
         from seed in Gen.Choose(0, int.MaxValue - 1)
         select (chunks, workers, losses, seed)).ToArbitrary(),
        job =>
        {
            var queue = new WorkQueue(job.chunks);
            var random = new Random(job.seed);
            var completions = new int[job.chunks];
            var held = new Dictionary<int, int>();
            while (!queue.IsComplete)
            {
                int worker = random.Next(job.workers);
                if (held.TryGetValue(worker, out int chunk))
                {
                    held.Remove(worker);
                    if (random.Next(100) < job.losses)
                    {
                        queue.Release(worker);
                    }
                    else
                    {
                        queue.Complete(worker, chunk);
                        completions[chunk]++;
                    }
                }
                else if (queue.Take(worker) is { } next)
                {
                    if (held.ContainsValue(next)) return false;
                    held.Add(worker, next);
                }
                else if (held.Count == 0)
                {
                    return false;
                }
            }

            return held.Count == 0 && completions.All(count => count == 1);
        }).Check(Configuration);

    [Fact]
    public void A_worker_completes_what_it_holds_and_holds_one_chunk()
    {
        var queue = new WorkQueue(2);
        Assert.Equal(0, queue.Take(5));

        Assert.Equal(
            "worker 5 asked for a chunk before it reported chunk 0 as completed",
            Assert.Throws<ParameterServerException>(() => queue.Take(5)).Message);
        Assert.Equal(
            "worker 5 reported chunk 1 as completed, which it does not hold",
            Assert.Throws<ParameterServerException>(() => queue.Complete(5, 1)).Message);
        Assert.Throws<ParameterServerException>(() => queue.Complete(6, 0));

        queue.Release(5);
        Assert.Throws<ParameterServerException>(() => queue.Complete(5, 0));
        Assert.Equal(0, queue.Take(6));
    }
}
