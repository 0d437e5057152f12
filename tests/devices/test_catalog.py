"""The catalog of devices: every figure has a source, derived figures follow from what they say, and no machine is two devices."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from kdedge.devices.catalog import CONFIDENCES, FOLDER, KEYS, Profile, Rule, detect, find_profile, profiles, read_profile
from kdedge.errors import DeviceError
from kdedge.runtimes import ADAPTERS
from kdedge.targets import TARGETS

ENTRIES = sorted(path.stem for path in FOLDER.glob("*.toml"))
NANO = FOLDER / "jetson-orin-nano-8gb.toml"
MEMORY = 'memory_gb = { value = 8, source = "nano-datasheet", confidence = "datasheet" }'
INT8 = "tops = 20.48\nunits = 32\nmacs_per_clock = 512\nclock_mhz = 625.0"


@pytest.fixture(params=ENTRIES)
def profile(request: pytest.FixtureRequest) -> Profile:
    return profiles()[str(request.param)]


def test_the_devices_that_were_promised_are_there() -> None:
    families = {entry: profiles()[entry].family for entry in ENTRIES}
    assert list(families.values()).count("jetson") == 7
    assert {"raspberry-pi-4", "raspberry-pi-5", "pixel-8", "pixel-9", "phone-mid-range-a78-a55", "intel-n100"} <= set(families)
    assert {"galaxy-s24-snapdragon-8-gen-3", "galaxy-s24-exynos-2400"} <= set(families)
    assert {"intel-core-ultra-meteor-lake", "intel-core-ultra-lunar-lake"} <= set(families)


# ---- sources ---------------------------------------------------------------------------------------------------------------


def test_every_figure_has_a_source_and_a_confidence(profile: Profile) -> None:
    figures = [*profile.facts.values(), *(peak.tops for peak in profile.peaks)]
    for cores in profile.cores:
        figures += [cores.count, cores.max_mhz, *cores.macs_per_clock.values()]
    for figure in figures:
        assert len(figure.source) > 10
        assert figure.confidence in CONFIDENCES
    assert all(mode.source and mode.confidence in CONFIDENCES for mode in profile.modes)
    assert {"memory_bandwidth_gb_per_s", "cache_mb"} <= set(profile.facts)


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_source_is_listed_and_not_used(entry: str) -> None:
    text = (FOLDER / f"{entry}.toml").read_text()
    for name in tomllib.loads(text)["sources"]:
        assert f'source = "{name}"' in text, f"{entry}: source {name} is not used"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (MEMORY, 'memory_gb = { value = 8, confidence = "datasheet" }', "without source"),
        (MEMORY, 'memory_gb = { value = 8, source = "nano-datasheet" }', "without confidence"),
        (MEMORY, "memory_gb = 8", "facts.memory_gb: a figure without source and confidence"),
        ('value = 8, source = "nano-datasheet"', 'value = 8, source = "hearsay"', "its source `hearsay` is not in [sources]"),
        ('source = "nano-datasheet", confidence = "datasheet"', 'source = "nano-datasheet", confidence = "sure"', "its confidence is `sure`"),
        (INT8, "tops = 20.48\nclock_mhz = 625.0", "says from what"),
        ("dense = true", "dense = false", "a peak must be dense and without the DLA"),
        ('source = "ampere"\nconfidence = "derived"', 'confidence = "derived"', "without source"),
        ('gpu_mhz = 408.0\nsource = "nvpmodel-nano"\n', "gpu_mhz = 408.0\n", "without source"),
        ('source = "kernel"\n', "", "`source` is missing"),
        ("value = 68.256", "value = -1", "above zero"),
        ('compatible = ["nvidia,p3767-0003", "nvidia,p3767-0005"]', 'model = ["Orin Nano"]', "machines are not recognised by it"),
        ('sensors = ["clocks"', 'sensors = ["clock"', "there is no `clock`"),
        ('family = "jetson"\n', "", "`family` is missing"),
        ("[facts]", "[facts", "it cannot be read"),
    ],
)  # fmt: skip
def test_a_file_that_says_too_little_or_too_much_is_refused_by_name_and_place(tmp_path: Path, before: str, after: str, said: str) -> None:
    text = NANO.read_text()
    assert before in text
    changed = tmp_path / NANO.name
    changed.write_text(text.replace(before, after, 1))
    with pytest.raises(DeviceError, match=NANO.name) as refused:
        read_profile(changed)
    assert said in str(refused.value)


# ---- peaks -----------------------------------------------------------------------------------------------------------------


def test_derived_peaks_follow_from_what_they_are_derived_from(profile: Profile) -> None:
    for peak in profile.peaks:
        if peak.units is None or peak.macs_per_clock is None:
            assert peak.tops.confidence != "derived"
            continue
        assert peak.clock_mhz is not None
        assert peak.tops.value == pytest.approx(peak.units * peak.macs_per_clock * 2 * peak.clock_mhz / 1e6, rel=1e-6), f"{profile.id} {peak.dtype}"


@pytest.mark.parametrize(
    ("entry", "dtype", "published"),
    [
        ("jetson-orin-nano-8gb", "int8", 20),  # data sheet: 20 dense
        ("jetson-orin-nano-8gb-super", "int8", 67 / 2),  # NVIDIA's blog: 67 sparse
        ("jetson-orin-nx-16gb", "int8", (100 - 40) / 2),  # data sheet: 100 sparse with two DLA of 20 sparse TOPS each
        ("jetson-orin-nx-16gb-super", "int8", (157 - 80) / 2),
        ("jetson-agx-orin-64gb", "int8", 170 / 2),  # technical brief: 170 sparse
        ("jetson-agx-orin-64gb", "fp32", 5.3),  # technical brief
    ],
)
def test_derived_peaks_agree_with_what_nvidia_publishes(entry: str, dtype: str, published: float) -> None:
    (peak,) = [peak for peak in profiles()[entry].peaks if (peak.unit, peak.dtype) == ("gpu", dtype)]
    assert peak.tops.value == pytest.approx(published, rel=0.03)


def test_a_peak_in_fewer_bits_is_no_slower(profile: Profile) -> None:
    for cores in profile.cores:
        rates = [cores.macs_per_clock[dtype].value for dtype in ("int8", "fp16", "fp32")]
        assert rates == sorted(rates, reverse=True)
    gpu = {peak.dtype: peak.tops.value for peak in profile.peaks if peak.unit == "gpu"}
    rates = [gpu[dtype] for dtype in ("int8", "fp16", "tf32", "fp32") if dtype in gpu]
    assert rates == sorted(rates, reverse=True)


def test_power_modes_stay_within_the_device(profile: Profile) -> None:
    fastest = max(cores.max_mhz.value for cores in profile.cores)
    gpu = max((peak.clock_mhz or 0 for peak in profile.peaks if peak.unit == "gpu"), default=0)
    for mode in profile.modes:
        assert mode.cpu_mhz is None or mode.cpu_mhz <= fastest
        assert mode.gpu_mhz is None or mode.gpu_mhz <= gpu
        assert mode.cores is None or mode.cores <= sum(cores.count.value for cores in profile.cores)
    with pytest.raises(DeviceError, match="has no power mode `WARP`"):
        profile.mode("WARP")


# ---- targets ---------------------------------------------------------------------------------------------------------------


def test_targets_exist_and_are_meant_for_the_machine_and_its_runtimes(profile: Profile) -> None:
    assert profile.targets
    assert set(profile.runtimes) <= set(ADAPTERS)
    for name in profile.targets:
        assert name in TARGETS
        assert set(TARGETS[name].machines) & set(profile.machines), f"{name} does not run on {profile.id}"
        assert TARGETS[name].runtime in profile.runtimes


def test_a_board_whose_last_jetpack_has_no_tensorrt_10_is_promised_no_target_that_needs_it(profile: Profile) -> None:
    if "jetpack" in profile.facts:  # TensorRT 10 came with JetPack 6.1; the adapter refuses 8
        assert ("tensorrt" in profile.targets) == (profile.facts["jetpack"].value != "up to 5.x")


# ---- detection -------------------------------------------------------------------------------------------------------------


def facts_for(rule: Rule) -> list[dict[str, str]]:
    """Facts that fit a rule, one for each of its patterns: what it leaves open is filled in."""
    found: list[dict[str, str]] = [{}]
    for key, patterns in rule.facts.items():
        found = [{**facts, key: pattern.replace("?*", "any").replace("*", "x").replace("[BC]", "B")} for facts in found for pattern in patterns]
    return found


def test_every_entry_is_recognised_by_its_own_rules_and_by_no_other(profile: Profile) -> None:
    assert profile.match
    for rule in profile.match:
        for facts in facts_for(rule):
            assert detect(facts) == profile, facts


@pytest.mark.parametrize(
    ("facts", "entry"),
    [
        # Words of /proc/device-tree/compatible as public notes quote them from boards.
        ({"compatible": "nvidia,p3768-0000+p3767-0003 nvidia,p3767-0003 nvidia,tegra234"}, "jetson-orin-nano-8gb"),
        ({"compatible": "nvidia,p3768-0000+p3767-0003-super nvidia,p3767-0003 nvidia,tegra234"}, "jetson-orin-nano-8gb-super"),
        ({"compatible": "nvidia,p3768-0000+p3767-0005-super nvidia,p3767-0005 nvidia,tegra234"}, "jetson-orin-nano-8gb-super"),
        ({"compatible": "nvidia,p3768-0000+p3767-0000-super nvidia,p3767-0000 nvidia,tegra234"}, "jetson-orin-nx-16gb-super"),
        ({"compatible": "nvidia,p3737-0000+p3701-0005 nvidia,p3701-0005 nvidia,tegra234"}, "jetson-agx-orin-64gb"),
        ({"compatible": "nvidia,p3509-0000+p3668-0000 nvidia,p3668-0000 nvidia,tegra194"}, "jetson-xavier-nx"),
        ({"compatible": "nvidia,p4071-0000+p3834-0008 nvidia,p3834-0008 nvidia,tegra264"}, "jetson-thor-t5000"),
        ({"compatible": "raspberrypi,5-model-b brcm,bcm2712"}, "raspberry-pi-5"),
        ({"soc": "QTI SM8650", "cpu": "arm implementer 0x41 part 0xd80 0xd81 0xd82"}, "galaxy-s24-snapdragon-8-gen-3"),
        ({"soc": "Samsung s5e9945"}, "galaxy-s24-exynos-2400"),
        ({"soc": "Google Tensor G4"}, "pixel-9"),
        ({"cpu_id": "GenuineIntel 6 190", "cpu_max_khz": "3400000"}, "intel-n100"),
        # What is like an entry and is none.
        ({"compatible": "nvidia,p3768-0000+p3767-0004 nvidia,p3767-0004 nvidia,tegra234"}, None),  # Orin Nano 4GB
        ({"compatible": "nvidia,p3737-0000+p3701-0000 nvidia,p3701-0000 nvidia,tegra234"}, None),  # AGX Orin 32GB
        ({"cpu_id": "GenuineIntel 6 190", "cpu_max_khz": "3800000"}, None),  # i3-N305
        ({"compatible": "rockchip,rk3588", "cpu": "arm implementer 0x41 part 0xd05 0xd41"}, None),  # no phone
        ({"soc": "Google Tensor"}, None),
        ({}, None),
        # A marketing name says nothing.
        ({"model": "NVIDIA Jetson Orin Nano Developer Kit"}, None),
        ({"model": "Samsung SM-S921B"}, None),
    ],
)  # fmt: skip
def test_machines_are_recognised_by_what_they_say_and_never_by_their_name(facts: dict[str, str], entry: str | None) -> None:
    found = detect(facts)
    assert (found.id if found is not None else None) == entry


def test_rules_ask_for_facts_that_are_gathered() -> None:
    for entry in profiles().values():
        for rule in entry.match:
            assert set(rule.facts) | set(rule.without) <= set(KEYS)


def test_two_entries_for_one_machine_are_an_error() -> None:
    nano = profiles()["jetson-orin-nano-8gb"]
    with pytest.raises(DeviceError, match="2 entries for this machine"):
        detect({"compatible": "nvidia,p3767-0003"}, [nano, nano])


# ---- names -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "entry"),
    [
        ("raspberry-pi-5", "raspberry-pi-5"),
        ("jetson-orin-nano", "jetson-orin-nano-8gb"),
        ("jetson-orin-nano-8gb-super", "jetson-orin-nano-8gb-super"),
        ("jetson-x", "jetson-xavier-nx"),
    ],
)
def test_a_name_may_be_cut_short_where_one_device_is_meant(given: str, entry: str) -> None:
    assert find_profile(given).id == entry


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("jetson", "`jetson` is the start of several devices of the catalog: "),
        ("galaxy-s24", "galaxy-s24-exynos-2400, galaxy-s24-snapdragon-8-gen-3"),
        ("rasberry-pi-5", "did you mean `raspberry-pi-5`? (there is: galaxy"),
        ("zx81", "the catalog has no device `zx81` (there is: galaxy"),
        ("", "the catalog has no device ``"),
    ],
)
def test_a_name_that_means_none_or_several_is_answered_with_a_list(given: str, said: str) -> None:
    with pytest.raises(DeviceError) as refused:
        find_profile(given)
    assert said in str(refused.value)
