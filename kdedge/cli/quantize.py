"""`kdedge quantize MODEL.onnx --dialect D --data CALIB.npz -o OUT.onnx`: integers for a model that kdedge did not make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdedge.cli.options import DEFAULT_WORKSPACE, JsonOption, QuietOption, WorkspaceOption


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def quantize(
        model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A float ONNX file.", show_default=False)],
        dialect: Annotated[str, typer.Option("--dialect", metavar="D", help="Whose kernels it is for: onnxruntime-x86, openvino, tensorrt, ...")],
        data: Annotated[
            Path, typer.Option("--data", metavar="CALIB.npz", help="Calibration examples: arrays by input name, or a folder of such files.")
        ],
        out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.onnx", help="Where the quantized file goes.")],
        observer: Annotated[str, typer.Option("--observer", metavar="O", help="How ranges are found: minmax, percentile, mse, ...")] = "mse",
        percentile: Annotated[float, typer.Option("--percentile", metavar="P", help="Of absolute values, for the percentile observer.")] = 99.99,
        keep_float: Annotated[
            list[str] | None, typer.Option("--keep-float", metavar="PATTERN", help="A node, or nodes (`*`), that stay float.")
        ] = None,
        recover: Annotated[
            list[str] | None, typer.Option("--recover", metavar="STEP", help="equalization, bias_correction, adaptive_rounding.")
        ] = None,
        at_least: Annotated[
            float | None, typer.Option("--at-least", metavar="DB", help="Leave sensitive nodes float until outputs keep this SQNR.")
        ] = None,
        workspace: WorkspaceOption = DEFAULT_WORKSPACE,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        """Quantize an ONNX file after training, list what stays float and why, and compare the result with the original on examples held back.

        Exits with 0 also where integers would gain nothing: the reason is said, and no file is written.
        """
        from kdedge.cli.quantizing import quantize_and_tell

        settings = {"observer": observer, "percentile": percentile, "keep_float": tuple(keep_float or ()), "recover": tuple(recover or ())}
        quantize_and_tell(model, dialect, data, out, settings, at_least, workspace, as_json, quiet)
