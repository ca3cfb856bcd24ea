using FsCheck;
using FsCheck.Fluent;
using Skein.Collectives.Rendezvous;

namespace Skein.Collectives.Tests.Rendezvous;

public sealed class WireFormatTests
{
    private const int WorldSize = 1000;
    private static readonly Config Fixed = Config.QuickThrowOnFailure.WithMaxTest(500).WithReplay(20240229, 7);

    private static readonly Gen<byte[]> Bytes = ArbMap.Default.GeneratorFor<byte[]>();
    private static readonly Gen<string> Text = ArbMap.Default.GeneratorFor<string>().Select(text => Clean(text ?? ""));
    private static readonly Gen<int> Number = ArbMap.Default.GeneratorFor<int>();
    private static readonly Gen<int> Rank = Gen.Choose(0, WorldSize - 1);

    private static readonly Gen<StoreRequest> Requests =
        from operation in Gen.Elements(Enum.GetValues<StoreOperation>())
        from id in Number
        from key in Text
        from number in ArbMap.Default.GeneratorFor<long>()
        from hasExpected in Gen.Elements(true, false)
        from expected in Bytes
        from value in Bytes
        select operation switch
        {
            StoreOperation.Set => new StoreRequest(operation, id, key, Value: value),
            StoreOperation.Get or StoreOperation.Add => new StoreRequest(operation, id, key, number),
            StoreOperation.CompareAndSet => new StoreRequest(operation, id, key, 0, hasExpected ? new ReadOnlyMemory<byte>(expected) : null, value),
            _ => new StoreRequest(operation, id, key),
        };

    private static readonly Gen<StoreReply> Replies =
        from id in Number
        from status in Gen.Elements(Enum.GetValues<StoreStatus>())
        from number in ArbMap.Default.GeneratorFor<long>()
        from value in Bytes
        select new StoreReply(id, status, number, value);

    private static readonly Gen<LifelineMessage> Messages =
        from tag in Gen.Choose(0, 5)
        from rank in Rank
        from kind in Gen.Elements(Enum.GetValues<FailureKind>())
        from state in Gen.Elements(Enum.GetValues<PeerState>())
        from text in Text
        from signature in Bytes
        from number in Number
        select tag switch
        {
            0 => new LifelineMessage.Welcome(),
            1 => new LifelineMessage.Rejected(text),
            2 => new LifelineMessage.Failed(new JobFailure(kind, rank, text)),
            3 => new LifelineMessage.Waiting(new WaitReport(rank, number, (long)number << 20, signature, text)),
            4 => new LifelineMessage.Goodbye(),
            _ => (LifelineMessage)new LifelineMessage.StateChanged(rank, state),
        };

    [Fact]
    public void Store_requests_survive_the_wire() => Prop.ForAll(Requests.ToArbitrary(), request =>
    {
        StoreRequest back = StoreRequest.Decode(Content(request.Encode()));
        return back with { Expected = null, Value = default } == request with { Expected = null, Value = default }
            && back.Expected.HasValue == request.Expected.HasValue
            && back.Expected.GetValueOrDefault().Span.SequenceEqual(request.Expected.GetValueOrDefault().Span)
            && back.Value.Span.SequenceEqual(request.Value.Span);
    }).Check(Fixed);

    [Fact]
    public void Store_replies_survive_the_wire() => Prop.ForAll(Replies.ToArbitrary(), reply =>
    {
        StoreReply back = StoreReply.Decode(Content(reply.Encode()));
        return back with { Value = default } == reply with { Value = default } && back.Value.Span.SequenceEqual(reply.Value.Span);
    }).Check(Fixed);

    [Fact]
    public void Lifeline_messages_survive_the_wire() => Prop.ForAll(Messages.ToArbitrary(), message =>
    {
        LifelineMessage back = LifelineMessage.Decode(Content(message.Encode()), WorldSize);
        if (message is not LifelineMessage.Waiting { Report: var sent }) return back == message;
        return back is LifelineMessage.Waiting { Report: var report }
            && report with { Signature = default } == sent with { Signature = default }
            && report.Signature.Span.SequenceEqual(sent.Signature.Span);
    }).Check(Fixed);

    [Fact]
    public void No_truncated_frame_is_taken_for_a_message() =>
        Prop.ForAll(Requests.ToArbitrary(), Messages.ToArbitrary(), (request, message) =>
        {
            byte[] first = Content(request.Encode()), second = Content(message.Encode());
            return Enumerable.Range(0, first.Length).All(length => IsRejected(() => StoreRequest.Decode(first.AsSpan(0, length))))
                && Enumerable.Range(0, second.Length).All(length => IsRejected(() => LifelineMessage.Decode(second.AsSpan(0, length), WorldSize)));
        }).Check(Fixed.WithMaxTest(100));

    [Fact]
    public void Noise_is_a_message_or_rejected_but_nothing_else() => Prop.ForAll(Bytes.ToArbitrary(), noise =>
    {
        IsRejected(() => StoreRequest.Decode(noise));
        IsRejected(() => StoreReply.Decode(noise));
        IsRejected(() => LifelineMessage.Decode(noise, WorldSize));
    }).Check(Fixed);

    [Fact]
    public void Fields_beyond_their_limit_are_rejected()
    {
        Assert.True(IsRejected(() => StoreRequest.Decode(Content(new StoreRequest(StoreOperation.Delete, 1, new string('k', 1025)).Encode()))));
        Assert.True(IsRejected(() => StoreRequest.Decode(Content(
            new StoreRequest(StoreOperation.Set, 1, "k", Value: new byte[Store.MaximumValueLength + 1]).Encode()))));
        Assert.True(IsRejected(() => LifelineMessage.Decode(Content(new LifelineMessage.StateChanged(WorldSize, PeerState.Lost).Encode()), WorldSize)));
        Assert.True(IsRejected(() => LifelineMessage.Decode(Content(new LifelineMessage.StateChanged(-1, PeerState.Lost).Encode()), WorldSize)));
    }

    [Fact]
    public void The_longest_messages_fit_their_limits()
    {
        var request = new StoreRequest(
            StoreOperation.CompareAndSet, 1, new string('k', Store.MaximumKeyLength), 0,
            new byte[Store.MaximumValueLength], new byte[Store.MaximumValueLength]);
        Assert.InRange(Content(request.Encode()).Length, 0, StoreRequest.MaximumLength);
        Assert.InRange(Content(new StoreReply(1, StoreStatus.Done, 1, new byte[Store.MaximumValueLength]).Encode()).Length, 0, StoreReply.MaximumLength);

        var report = new WaitReport(1, 2, 3, new byte[WaitReport.MaximumSignatureLength], new string('é', 100_000));
        byte[] content = Content(new LifelineMessage.Waiting(report).Encode());
        Assert.InRange(content.Length, 0, LifelineMessage.MaximumLength);
        var back = Assert.IsType<LifelineMessage.Waiting>(LifelineMessage.Decode(content, WorldSize));
        Assert.StartsWith("ééé", back.Report.Description);
        Assert.EndsWith("…", back.Report.Description);
    }

    private static byte[] Content(byte[] frame)
    {
        Assert.Equal(frame.Length - 4, BitConverter.ToInt32(frame));
        return frame[4..];
    }

    // A lone surrogate has no UTF-8.
    private static string Clean(string text) => string.Concat(text.Where(c => !char.IsSurrogate(c)).Take(300));

    private static bool IsRejected(Func<object> decode)
    {
        try
        {
            decode();
            return false;
        }
        catch (InvalidDataException)
        {
            return true;
        }
    }
}
