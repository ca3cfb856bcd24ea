using System.Reflection;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace Skein.Training;

/// <summary>Finds modules by their names in <c>named_modules</c>, and puts others in their place.</summary>
internal static class ModuleTree
{
    /// <summary>Puts <paramref name="replacement"/> in the place of the module <paramref name="name"/>, which is not disposed.</summary>
    /// <exception cref="ArgumentException">There is no such module, or its parent holds it in a way that allows no other.</exception>
    public static void Replace(nn.Module root, string name, nn.Module<Tensor, Tensor> replacement)
    {
        int dot = name.LastIndexOf('.');
        nn.Module parent = ParentOf(root, name);
        string child = name[(dot + 1)..];
        nn.Module present = Find(parent, child);
        switch (parent)
        {
            case Sequential sequential:
                ReplaceIn(sequential, present, replacement);
                return;
            case ModuleList<nn.Module<Tensor, Tensor>> list:
                list[list.IndexOf((nn.Module<Tensor, Tensor>)present)] = replacement;
                break;
            default:
                ReplaceField(parent, present, replacement, name);
                break;
        }

        Register(parent, child, replacement);
    }

    /// <summary>The layers of a model that is their composition, with their names in it.</summary>
    /// <exception cref="ArgumentException">It is neither a <see cref="Sequential"/> nor an <see cref="ILayeredModel"/>.</exception>
    public static IReadOnlyList<(string Name, nn.Module<Tensor, Tensor> Layer)> LayersOf(nn.Module model)
    {
        switch (model)
        {
            case ILayeredModel layered:
                string list = model.named_modules().First(entry => ReferenceEquals(entry.module, layered.Layers)).name;
                return [.. layered.Layers.Select((layer, i) => ($"{list}.{i}", layer))];
            case Sequential sequential:
                return [.. sequential.named_children().Select(static child => (child.name, child.module as nn.Module<Tensor, Tensor>
                    ?? throw new ArgumentException($"layer '{child.name}' of the model is a {child.module.GetType().Name}, which does not map one tensor to one")))];
            default:
                throw new ArgumentException($"a {model.GetType().Name} cannot be taken apart into layers: build it as a Sequential, or implement {nameof(ILayeredModel)}");
        }
    }

    /// <summary>The module of that name below <paramref name="root"/>.</summary>
    /// <exception cref="ArgumentException">There is none; lists the children of where the path ends.</exception>
    public static nn.Module Find(nn.Module root, string name)
    {
        nn.Module module = root;
        foreach (string part in name.Split('.'))
        {
            module = module.named_children().Where(child => child.name == part).Select(static child => child.module).FirstOrDefault()
                ?? throw new ArgumentException($"there is no module '{name}': at '{part}' there are only {string.Join(", ", module.named_children().Select(static child => child.name))}");
        }

        return module;
    }

    /// <summary>Whether the parent of the module <paramref name="name"/> may hold any other module in its place.</summary>
    public static bool CanReplace(nn.Module root, string name)
    {
        int dot = name.LastIndexOf('.');
        nn.Module parent = ParentOf(root, name), present = Find(parent, name[(dot + 1)..]);
        return parent is Sequential or ModuleList<nn.Module<Tensor, Tensor>> || FieldOf(parent, present) is { } field && field.FieldType.IsAssignableFrom(typeof(nn.Module<Tensor, Tensor>));
    }

    // TorchSharp's Sequential has no way to exchange a member.
    private static void ReplaceIn(Sequential sequential, nn.Module present, nn.Module<Tensor, Tensor> replacement)
    {
        FieldInfo field = typeof(Sequential).GetField("_modules", BindingFlags.Instance | BindingFlags.NonPublic)
            ?? throw new NotSupportedException($"TorchSharp {typeof(Sequential).Assembly.GetName().Version} keeps the members of a Sequential in another way: use an {nameof(ILayeredModel)} instead");
        var members = (IList<nn.IModule<Tensor, Tensor>>)field.GetValue(sequential)!;
        members[members.IndexOf((nn.IModule<Tensor, Tensor>)present)] = replacement;
    }

    private static nn.Module ParentOf(nn.Module root, string name)
    {
        int dot = name.LastIndexOf('.');
        nn.Module parent = dot < 0 ? root : Find(root, name[..dot]);
        return parent is RecomputedLayer recomputed ? recomputed.Layer : parent;
    }

    private static void ReplaceField(nn.Module parent, nn.Module present, nn.Module<Tensor, Tensor> replacement, string name)
    {
        FieldInfo field = FieldOf(parent, present) ?? throw new ArgumentException($"module '{name}' is in no field of {parent.GetType().Name}, so that nothing can take its place");
        if (!field.FieldType.IsInstanceOfType(replacement))
        {
            throw new ArgumentException($"module '{name}' is in the field '{field.Name}' of {field.DeclaringType!.Name}, which holds a {field.FieldType.Name} and nothing else: declare it as nn.Module<Tensor, Tensor>");
        }

        field.SetValue(parent, replacement);
    }

    private static FieldInfo? FieldOf(nn.Module parent, nn.Module present)
    {
        for (Type? type = parent.GetType(); type is not null && type != typeof(nn.Module); type = type.BaseType)
        {
            foreach (FieldInfo field in type.GetFields(BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.DeclaredOnly))
            {
                if (ReferenceEquals(field.GetValue(parent), present)) return field;
            }
        }

        return null;
    }

    // Again from there on, so that the order of the parameters stays.
    private static void Register(nn.Module parent, string child, nn.Module replacement)
    {
        (string Name, nn.Module Module)[] rest = [.. parent.named_children().SkipWhile(entry => entry.name != child)];
        foreach ((string name, _) in rest) parent.register_module(name, null!);
        foreach ((string name, nn.Module module) in rest) parent.register_module(name, name == child ? replacement : module);
    }
}
