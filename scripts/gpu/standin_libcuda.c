/* A CUDA driver without a card: it claims to be an H200, keeps memory on the host and runs no kernel. Kernels are compiled and loaded
 * through it as on a card, so a build and this kit can be rehearsed anywhere; no number that comes out means anything.
 *
 *   cc -shared -fPIC -o libcuda.so.1 standin_libcuda.c
 *
 * STANDIN_MAJOR, STANDIN_MINOR: another compute capability. STANDIN_MIB: memory of the card, after which allocations fail.
 * STANDIN_PTX: a folder that receives each module's PTX. STANDIN_VERBOSE: prints the number of modules and launches at the end. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef uint64_t Pointer;
typedef void *Handle;
enum { SUCCESS = 0, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };

static int modules, launches;
static size_t held;

static long setting(const char *name, long usual) {
  const char *value = getenv(name);
  return value ? atol(value) : usual;
}
static size_t capacity(void) { return (size_t)setting("STANDIN_MIB", 139l << 10) << 20; }
static void at_end(void) {
  if (getenv("STANDIN_VERBOSE")) fprintf(stderr, "stand-in driver: %d modules, %d launches\n", modules, launches);
}

/* The device. */
Result cuInit(unsigned flags) {
  static int once;
  if (!once++) atexit(at_end);
  return SUCCESS;
}
Result cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
Result cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
Result cuDeviceGet(int *device, int index) { return *device = index, SUCCESS; }
Result cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "Stand-in H200"), SUCCESS; }
Result cuDeviceGetPCIBusId(char *id, int size, int device) { return snprintf(id, size, "0000:01:00.0"), SUCCESS; }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = capacity(), SUCCESS; }
Result cuMemGetInfo_v2(size_t *left, size_t *total) { return *total = capacity(), *left = *total - held, SUCCESS; }
Result cuDeviceGetUuid(char *uuid, int device) { return memset(uuid, 7, 16), SUCCESS; }
Result cuDeviceGetUuid_v2(char *uuid, int device) { return memset(uuid, 7, 16), SUCCESS; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break;      /* threads of a block, and along x and y */
    case 4: *value = 64; break;                        /* along z */
    case 5: *value = 2147483647; break;                /* blocks along x */
    case 6: case 7: *value = 65535; break;             /* along y and z */
    case 8: *value = 49152; break;                     /* shared memory of a block */
    case 10: *value = 32; break;                       /* warp */
    case 16: *value = 132; break;                      /* multiprocessors */
    case 75: *value = setting("STANDIN_MAJOR", 9); break;
    case 76: *value = setting("STANDIN_MINOR", 0); break;
    case 97: *value = 232448; break;                   /* shared memory of a block, by request */
    default: *value = 1;
  }
  return SUCCESS;
}
Result cuDevicePrimaryCtxRetain(Handle *context, int device) { return *context = (Handle)1, SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }
Result cuCtxSetCurrent(Handle context) { return SUCCESS; }
Result cuCtxGetCurrent(Handle *context) { return *context = (Handle)1, SUCCESS; }
Result cuCtxSynchronize(void) { return SUCCESS; }
Result cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = *greatest = 0, SUCCESS; }

/* Memory: each block is preceded by its size. Large blocks are fresh pages of the
 * system, zero and without cost until they are written. */
static Result allocate(Pointer *pointer, size_t bytes) {
  size_t rounded = (bytes + 4095) / 4096 * 4096;
  if (held + rounded > capacity()) return OUT_OF_MEMORY;
  char *block = aligned_alloc(4096, rounded + 4096);
  if (!block) return OUT_OF_MEMORY;
  *(size_t *)block = rounded;
  held += rounded;
  if (bytes < (1u << 20)) memset(block + 4096, 0, bytes);
  *pointer = (Pointer)(block + 4096);
  return SUCCESS;
}
static Result release(Pointer pointer) {
  if (!pointer) return SUCCESS;
  char *block = (char *)pointer - 4096;
  held -= *(size_t *)block;
  free(block);
  return SUCCESS;
}
Result cuMemAlloc_v2(Pointer *pointer, size_t bytes) { return allocate(pointer, bytes); }
Result cuMemAllocAsync(Pointer *pointer, size_t bytes, Handle stream) { return allocate(pointer, bytes); }
Result cuMemFree_v2(Pointer pointer) { return release(pointer); }
Result cuMemFreeAsync(Pointer pointer, Handle stream) { return release(pointer); }
Result cuMemAllocHost_v2(void **pointer, size_t bytes) {
  *pointer = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  return *pointer ? SUCCESS : OUT_OF_MEMORY;
}
Result cuMemFreeHost(void *pointer) { return free(pointer), SUCCESS; }
Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, Handle stream) {
  return memcpy((void *)to, from, bytes), SUCCESS;
}
Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, Handle stream) {
  return memcpy(to, (void *)from, bytes), SUCCESS;
}
Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, Handle stream) {
  return memmove((void *)to, (void *)from, bytes), SUCCESS;
}
Result cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, Handle stream) {
  return memset((void *)to, value, bytes), SUCCESS;
}
/* CUDA_MEMCPY2D of cuda.h; a memory type of 1 is the host. */
typedef struct {
  size_t from_x, from_y; int from_type; const char *from_host; Pointer from_device; Handle from_array; size_t from_pitch;
  size_t to_x, to_y; int to_type; char *to_host; Pointer to_device; Handle to_array; size_t to_pitch;
  size_t width, height;
} Copy2D;
Result cuMemcpy2DAsync_v2(const Copy2D *copy, Handle stream) {
  const char *from = (copy->from_type == 1 ? copy->from_host : (const char *)copy->from_device) + copy->from_y * copy->from_pitch + copy->from_x;
  char *to = (copy->to_type == 1 ? copy->to_host : (char *)copy->to_device) + copy->to_y * copy->to_pitch + copy->to_x;
  for (size_t row = 0; row < copy->height; row++) memcpy(to + row * copy->to_pitch, from + row * copy->from_pitch, copy->width);
  return SUCCESS;
}

/* Kernels. */
Result cuModuleLoadData(Handle *module, const void *image) {
  *module = (Handle)(intptr_t)++modules;
  const char *folder = getenv("STANDIN_PTX");
  if (folder) {
    char name[4096];
    snprintf(name, sizeof name, "%s/%05d.ptx", folder, modules);
    FILE *file = fopen(name, "w");
    if (file) fwrite(image, 1, strlen(image), file), fclose(file);
  }
  return SUCCESS;
}
Result cuModuleUnload(Handle module) { return SUCCESS; }
Result cuModuleGetFunction(Handle *function, Handle module, const char *name) { return *function = module, SUCCESS; }
Result cuFuncSetAttribute(Handle function, int attribute, int value) { return SUCCESS; }
Result cuFuncGetAttribute(int *value, int attribute, Handle function) { return *value = 64, SUCCESS; }
Result cuLaunchKernel(Handle function, unsigned a, unsigned b, unsigned c, unsigned x, unsigned y, unsigned z, unsigned shared,
                      Handle stream, void **parameters, void **extra) {
  launches++;
  return SUCCESS;
}
Result cuTensorMapEncodeTiled() { return SUCCESS; }
Result cuTensorMapEncodeIm2col() { return SUCCESS; }
Result cuTensorMapEncodeIm2colWide() { return SUCCESS; }

/* Streams and events: everything has happened already. */
Result cuStreamCreate(Handle *stream, unsigned flags) { return *stream = (Handle)1, SUCCESS; }
Result cuStreamCreateWithPriority(Handle *stream, unsigned flags, int priority) { return *stream = (Handle)1, SUCCESS; }
Result cuStreamDestroy_v2(Handle stream) { return SUCCESS; }
Result cuStreamSynchronize(Handle stream) { return SUCCESS; }
Result cuStreamQuery(Handle stream) { return SUCCESS; }
Result cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) { return SUCCESS; }
Result cuEventCreate(Handle *event, unsigned flags) { return *event = (Handle)1, SUCCESS; }
Result cuEventRecord(Handle event, Handle stream) { return SUCCESS; }
Result cuEventQuery(Handle event) { return SUCCESS; }
Result cuEventSynchronize(Handle event) { return SUCCESS; }
Result cuEventDestroy_v2(Handle event) { return SUCCESS; }
Result cuEventElapsedTime(float *ms, Handle from, Handle to) { return *ms = 20.0f, SUCCESS; }
Result cuEventElapsedTime_v2(float *ms, Handle from, Handle to) { return *ms = 20.0f, SUCCESS; }

Result cuGetErrorName(Result error, const char **name) {
  return *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OF_THE_STAND_IN", SUCCESS;
}
Result cuGetErrorString(Result error, const char **text) {
  return *text = error == OUT_OF_MEMORY ? "out of memory" : "an error of the stand-in driver", SUCCESS;
}
Result cuGetExportTable(const void **table, const void *id) {
  if (table) *table = 0;
  return NOT_FOUND;
}
