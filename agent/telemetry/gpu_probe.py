"""The NVML calls, made only in a disposable child: each may hang, spin, crash or fail for one device alone.

Before each device an `asking` part is emitted, so that whoever waits knows in which device a child hangs.
Errors stay with their device and field; a function that an older library lacks, or a device doesn't
support, is an absent key. The child never calls nvmlShutdown: its exit lets go of the driver.

Knows nothing of deadlines or of earlier samples. See NVIDIA's NVML API reference.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from agent.telemetry.probe_contract import Emit, ProbeFailure, UnknownReason

try:
    import pynvml as nvml
except ImportError:  # an installation without the bindings is a node without GPU columns
    nvml = None

DEVICE_LIMIT = 64
_NAME_LIMIT = 96


def inventory(args: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Emits what each device is, by index, but for those in `args["skip"]`; gives driver version and count.

    A device's part has `index` and either `uuid name serial pci_bus_id` or `state` and `error`.

    Raises:
        ProbeFailure: no library, no driver, or NVML as a whole refuses.
    """
    _initialise()
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        raise ProbeFailure(UnknownReason.ERROR, f"device count: {_code(error)}") from error
    for index in range(min(count, DEVICE_LIMIT)):
        if index in args["skip"]:
            continue
        emit({"asking": index})
        emit({"index": index} | _identity(index))
    return {"count": count, "driver_version": _driver_version()}


def sample(args: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Emits the readings of each of `args["uuids"]`, each with `state`: `ok`, `lost`, `missing` or `unknown`.

    Raises:
        ProbeFailure: as `inventory`.
    """
    _initialise()
    for uuid in args["uuids"]:
        emit({"asking": uuid})
        emit({"uuid": uuid} | _readings(uuid))
    return {}


def _initialise() -> None:
    if nvml is None:
        raise ProbeFailure(UnknownReason.LIBRARY_ABSENT, "the NVML bindings are not installed")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        match error.value:
            case nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
                raise ProbeFailure(UnknownReason.LIBRARY_ABSENT, "libnvidia-ml.so.1 is not there") from error
            case nvml.NVML_ERROR_DRIVER_NOT_LOADED:
                raise ProbeFailure(UnknownReason.NO_DEVICE, "the driver is not loaded") from error
            case _:
                raise ProbeFailure(UnknownReason.ERROR, f"nvmlInit: {_code(error)}") from error


def _identity(index: int) -> dict[str, Any]:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        identity: dict[str, Any] = {"uuid": _text(nvml.nvmlDeviceGetUUID(handle))}
    except nvml.NVMLError as error:
        return {"state": _state_after(error), "error": _code(error)}
    fields: dict[str, Callable[[], Any]] = {
        "name": lambda: _text(nvml.nvmlDeviceGetName(handle)),
        "serial": lambda: _text(nvml.nvmlDeviceGetSerial(handle)),
        "pci_bus_id": lambda: _text(nvml.nvmlDeviceGetPciInfo(handle).busId),
    }
    return identity | _read_fields(fields)


def _readings(uuid: str) -> dict[str, Any]:
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
    except nvml.NVMLError as error:
        return {"state": _state_after(error), "error": _code(error)}
    fields: dict[str, Callable[[], Any]] = {
        "memory": lambda: _memory(handle),
        "utilization": lambda: _utilization(handle),
        "temperature_celsius": lambda: _temperature(handle),
        "power_watts": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "power_limit_watts": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "ecc_uncorrected_volatile": lambda: nvml.nvmlDeviceGetTotalEccErrors(
            handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        ),
        "throttle_reasons": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        "sm_clock_hertz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1_000_000,
        "mig_mode": lambda: nvml.nvmlDeviceGetMigMode(handle)[0],
    }
    readings = _read_fields(fields)
    for group in ("memory", "utilization"):  # NVML gives these as structures; in the sample all is flat
        readings |= readings.pop(group, {})
    return readings


def _read_fields(fields: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, read in fields.items():
        try:
            found[name] = read()
        except nvml.NVMLError as error:
            if error.value in {nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND}:
                continue
            if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                return {"state": "lost", "error": _code(error)}
            errors[name] = _code(error)
    state = "unknown" if errors and not found else "ok"
    return found | {"state": state} | ({"errors": errors} if errors else {})


def _memory(handle: Any) -> dict[str, int]:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        reserved = {"memory_reserved_bytes": memory.reserved}
    except (
        nvml.NVMLError,
        AttributeError,
    ):  # before driver 510 there is only v1, whose `used` holds the reserve
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        reserved = {}
    return {"memory_total_bytes": memory.total, "memory_used_bytes": memory.used} | reserved


def _utilization(handle: Any) -> dict[str, float]:
    rates = nvml.nvmlDeviceGetUtilizationRates(handle)
    return {"utilization_ratio": rates.gpu / 100, "memory_utilization_ratio": rates.memory / 100}


def _temperature(handle: Any) -> int:
    try:
        return cast("int", nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU))
    except (nvml.NVMLError, AttributeError) as error:
        if getattr(error, "value", None) == nvml.NVML_ERROR_GPU_IS_LOST:
            raise
        return cast("int", nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))


def _driver_version() -> str | None:
    try:
        return _text(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return None


def _state_after(error: Any) -> str:
    if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
        return "lost"
    return "missing" if error.value == nvml.NVML_ERROR_NOT_FOUND else "unknown"


def _code(error: Any) -> str:
    return f"{error.value} {error}"[:_NAME_LIMIT]


def _text(raw: Any) -> str:
    return (raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw))[:_NAME_LIMIT]
