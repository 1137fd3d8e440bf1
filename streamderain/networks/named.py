"""The networks of the papers by name: what there is to train and to compare, without weights that ship."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamderain.networks.spec import NetworkSpec


@dataclass(frozen=True, slots=True)
class NamedNetwork:
    """A network to be trained, and in one line what it is."""

    spec: NetworkSpec
    summary: str


_AS_COUNTED = {"channel_attention": "one-block", "skips": "mspam"}
_AS_WRITTEN = {"channel_attention": "blocks", "skips": "mspam"}

NAMED: Mapping[str, NamedNetwork] = {
    "paper-a": NamedNetwork(
        NetworkSpec("detail-resnet", {"channels": 16, "blocks": 12}), "improved residual network on the detail layer"
    ),
    "paper-a-wide": NamedNetwork(
        NetworkSpec("detail-resnet", {"channels": 64, "blocks": 12}), "paper-a with 64 channels instead of 16"
    ),
    "ddn": NamedNetwork(NetworkSpec("ddn"), "deep detail network, paper-a's baseline (Fu et al. 2017)"),
    "paper-b": NamedNetwork(
        NetworkSpec("ecnet", _AS_COUNTED),
        "ECNet with a channel attention block and MSPAM, as its parameter count has it",
    ),
    "paper-b-as-written": NamedNetwork(
        NetworkSpec("ecnet", _AS_WRITTEN), "paper-b with channel attention in every residual block of the encoder"
    ),
    "ecnet": NamedNetwork(NetworkSpec("ecnet"), "rain embedding consistency, one pass (Li et al. 2022)"),
    "ecnet-ll": NamedNetwork(
        NetworkSpec("ecnet", {"recurrences": 6}), "ecnet with a layered LSTM, six passes (Li et al. 2022)"
    ),
    "prenet": NamedNetwork(NetworkSpec("prenet"), "progressive recurrent network, six stages (Ren et al. 2019)"),
}
