/* A stand-in for libnvidia-ml.so.1, for tests: three devices, and faults on demand.
 *
 * The file named by NVML_FAKE_CONTROL is read at each call. Its first word is the mode, an optional second word
 * the index of the only device concerned (-1 or absent: nvmlInit, that is all of them).
 *   ok lost unknown notloaded mismatch nodevice dropped hang spin segv abort missing
 * `nodevice` has none, `dropped` has lost its last one without a word. What hangs or spins returns when the mode is
 * another one: a driver that comes back.
 * Layouts follow NVIDIA's public NVML API reference. Some functions are left out on purpose: older libraries
 * lack them too.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, NOT_LOADED = 9, LOST = 15, MISMATCH = 18, UNKNOWN = 999 };
enum { DEVICES = 3 };

typedef struct { int index; } device;
static device devices[DEVICES] = {{0}, {1}, {2}};

static void read_mode(char mode[32], int index) {
    int which = -1;
    const char *path = getenv("NVML_FAKE_CONTROL");
    FILE *control = path ? fopen(path, "r") : NULL;
    strcpy(mode, "ok");
    if (!control) return;
    if (fscanf(control, "%31s %d", mode, &which) < 1 || which != index) strcpy(mode, "ok");
    fclose(control);
}

static int fault(int index) {
    char mode[32];
    read_mode(mode, index);
    for (; !strcmp(mode, "hang"); read_mode(mode, index)) usleep(20000);
    for (; !strcmp(mode, "spin"); read_mode(mode, index))
        for (volatile int turn = 0; turn < 10000000; turn++) {}
    if (!strcmp(mode, "segv")) raise(SIGSEGV);
    if (!strcmp(mode, "abort")) abort();
    if (!strcmp(mode, "lost")) return LOST;
    if (!strcmp(mode, "unknown")) return UNKNOWN;
    if (!strcmp(mode, "notloaded")) return NOT_LOADED;
    if (!strcmp(mode, "mismatch")) return MISMATCH;
    if (!strcmp(mode, "missing")) return NOT_FOUND;
    return OK;
}

static unsigned device_count(void) {
    char mode[32] = "";
    const char *path = getenv("NVML_FAKE_CONTROL");
    FILE *control = path ? fopen(path, "r") : NULL;
    if (!control) return DEVICES;
    if (fscanf(control, "%31s", mode) < 1) mode[0] = 0;
    fclose(control);
    if (!strcmp(mode, "nodevice")) return 0;
    return strcmp(mode, "dropped") ? DEVICES : DEVICES - 1;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return fault(-1); }
int nvmlInit_v2(void) { return fault(-1); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "some error"; }

int nvmlSystemGetDriverVersion(char *out, unsigned length) { snprintf(out, length, "999.01"); return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = device_count(); return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **out) {
    if (index >= device_count()) return NOT_FOUND;
    *out = &devices[index];
    return fault((int)index);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device **out) {
    int index = -1;
    if (sscanf(uuid, "GPU-fake-%d", &index) != 1 || index < 0 || index >= (int)device_count()) return NOT_FOUND;
    *out = &devices[index];
    return fault(index);
}

int nvmlDeviceGetUUID(device *d, char *out, unsigned length) {
    snprintf(out, length, "GPU-fake-%d", d->index);
    return OK;
}
int nvmlDeviceGetName(device *d, char *out, unsigned length) { (void)d; snprintf(out, length, "Fake H1"); return OK; }
int nvmlDeviceGetSerial(device *d, char *out, unsigned length) {
    if (d->index == 2) return NOT_SUPPORTED;
    snprintf(out, length, "1000%d", d->index);
    return OK;
}

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info;
int nvmlDeviceGetPciInfo_v3(device *d, pci_info *out) {
    memset(out, 0, sizeof *out);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:0%d:00.0", d->index + 1);
    return OK;
}

typedef struct { unsigned long long total, free, used; } memory_v1;
int nvmlDeviceGetMemoryInfo(device *d, memory_v1 *out) {
    out->total = 80ull << 30;
    out->used = (unsigned long long)(d->index + 1) << 30;
    out->free = out->total - out->used;
    return fault(d->index);
}

typedef struct { unsigned gpu, memory; } rates;
int nvmlDeviceGetUtilizationRates(device *d, rates *out) { out->gpu = 50; out->memory = 25; return fault(d->index); }
int nvmlDeviceGetTemperature(device *d, int sensor, unsigned *out) { (void)sensor; *out = 40 + d->index; return OK; }
int nvmlDeviceGetPowerUsage(device *d, unsigned *milliwatts) { (void)d; *milliwatts = 123456; return OK; }
int nvmlDeviceGetTotalEccErrors(device *d, int kind, int counter, unsigned long long *out) {
    (void)kind; (void)counter;
    *out = (unsigned long long)d->index;
    return OK;
}
int nvmlDeviceGetMigMode(device *d, unsigned *current, unsigned *pending) {
    (void)d; (void)current; (void)pending;
    return NOT_SUPPORTED;
}
