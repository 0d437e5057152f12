"""What `kdedge inspect` finds out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdedge.errors import BundleError, ExportError, KdedgeError


def describe(path: Path) -> dict[str, Any]:
    """What an ONNX file or a bundle says of itself, as plain values.

    Raises:
        KdedgeError: it is neither, or is damaged.
    """
    return _bundle(path) if path.is_dir() else _onnx(path)


def lines(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """The same for people: a line a fact, what belongs to it indented under it."""
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}"
            yield from lines(value, indent + "  ")
        elif isinstance(value, list) and value and not isinstance(value[0], int | float):
            yield f"{indent}{name}"
            yield from (printable(f"{indent}  {item}") for item in value)
        else:
            yield printable(f"{indent}{name}: {value if value not in (None, '', [], {}) else '-'}")


def printable(text: str) -> str:
    """The text in one line, without what would steer the terminal: names come out of files that anybody may have made."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def violations(path: Path, dialect: str) -> list[str]:
    """What in an ONNX file, or in the one of a bundle, breaks the grammar of a dialect: a line a node.

    Raises:
        KdedgeError: there is no such dialect, or no ONNX file.
    """
    from kdedge.artifact import ImportPath
    from kdedge.exporters.dialects import DIALECTS, validate
    from kdedge.exporters.quantize.wiring import load

    if dialect not in DIALECTS:
        raise KdedgeError(f"there is no dialect `{dialect}` (allowed: {', '.join(sorted(DIALECTS))})")
    file = graph_in(path, "a dialect is checked on ONNX alone")[0] if path.is_dir() else _existing(path)
    return validate.violations(load(file), ImportPath(DIALECTS[dialect]).load())


def graph_in(folder: Path, why: str) -> tuple[Path, dict[str, Any]]:
    """The ONNX file of a bundle, and what the manifest says of its artifact; `why` ends the error where it has another format.

    Raises:
        KdedgeError: the manifest is damaged, or the artifact is no ONNX file.
    """
    from kdedge.bundle.manifest import read_manifest, safe_path

    with _complete(folder):
        artifact = read_manifest(folder)["artifact"]
        if artifact["format"] != "onnx":
            raise KdedgeError(f"{folder.name}: its artifact is {artifact['format']}; {why}")
        return _existing(folder / safe_path(artifact["graphs"][0]["files"][0], folder)), artifact


def _bundle(folder: Path) -> dict[str, Any]:
    from kdedge.bundle.manifest import read_manifest

    with _complete(folder):
        return _facts(read_manifest(folder))


@contextmanager
def _complete(folder: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise BundleError(f"{folder.name}: the manifest does not say all that a manifest says ({type(error).__name__}: {error})") from error


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    from kdedge.estimate import Estimate
    from kdedge.report.figures import options, size

    artifact, evidence = manifest["artifact"], manifest["evidence"]
    measured = {**evidence["fidelity"], **evidence["latency"]}
    return {
        "bundle": manifest["name"],
        "digest": manifest["digest"],
        "files": len(manifest["files"]),
        "artifact": {
            "target": f"{artifact['target']} {artifact['precision']}",
            "format": artifact["format"],
            "dialect": artifact["dialect"],
            "size": size(artifact["size_bytes"]),
            "sha256": artifact["sha256"],
            "session options": options(artifact["options"]),
            "checks": artifact["checks"],
            "notes": artifact["notes"],
        },
        "inputs": [_spec(item) for item in manifest["input"]["tensors"]],
        "outputs": [_spec(item) for item in artifact["graphs"][0].get("outputs", ())],
        "encoder": manifest["input"]["encoder"],
        "classes": len(manifest["classes"]),
        "evidence": {
            "device": f"{evidence['device']}: {evidence['status']}" + (f" ({evidence['reason']})" if evidence["reason"] else ""),
            "runtime": f"{artifact['runtime']} {evidence['runtime_version']}",
            **{name: str(Estimate(**figure)) for name, figure in measured.items()},
            "executed": evidence["executed"],
            **_audited(evidence),
        },
        "golden": f"{manifest['golden']['source']}; at least {manifest['golden']['minimum_sqnr_db']:g} dB",
        "lineage": manifest["lineage"],
    }


def _audited(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """What an audit found where the bundle was measured; bundles of older versions have none."""
    share = evidence.get("integer_share")
    return {"in integers": f"{100 * share:.1f} % of the multiplications", "ran otherwise": evidence.get("findings", [])} if share is not None else {}


def _spec(tensor: Mapping[str, Any]) -> str:
    sizes = [str(size) if isinstance(size, int) else f"{size['name']}={size['minimum']}..{size['maximum']}" for size in tensor["shape"]]
    return f"{tensor['name']} {tensor['dtype']} [{', '.join(sizes)}]"


def _onnx(path: Path) -> dict[str, Any]:
    import onnx

    try:
        model = onnx.load(str(_existing(path)), load_external_data=False)
    except KdedgeError:
        raise
    except Exception as error:  # protobuf and onnx raise many kinds; all mean the same here
        raise ExportError(f"{path} is not an ONNX file that can be read: {error}") from error
    if not model.opset_import:
        raise ExportError(f"{path} is not an ONNX file: it holds no graph")
    initializers = {item.name for item in model.graph.initializer}
    return {
        "file": f"{path}, {path.stat().st_size} bytes",
        "ir": model.ir_version,
        "opset": {item.domain or "ai.onnx": item.version for item in model.opset_import},
        "inputs": [_value(value) for value in model.graph.input if value.name not in initializers],
        "outputs": [_value(value) for value in model.graph.output],
        "operators": dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        "metadata": {item.key: item.value for item in model.metadata_props},
    }


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise KdedgeError(f"{path}: there is no such file")
    return path


def _value(value: Any) -> str:
    import onnx

    tensor = value.type.tensor_type
    sizes = [dimension.dim_param or str(dimension.dim_value) for dimension in tensor.shape.dim]
    return f"{value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} [{', '.join(sizes)}]"
