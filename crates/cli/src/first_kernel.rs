//! The first kernel on a GPU: a machine that cannot compile or run kernels is reported by name, before any work depends on it.

use burn::tensor::{Device, Tensor};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Chooses the folder of these cards' kernels, then compiles and runs a small kernel on one of them and waits for it. Returns the
/// reason why it did not run.
pub(crate) fn run(backend: &str, cards: &[Device], device: &Device) -> Result<(), String> {
    // The small kernel includes no header, others do.
    if backend == "cuda"
        && cfg!(feature = "cpp")
        && let Some(header) = cuda_folder().and_then(|folder| missing_header(&folder))
    {
        return Err(format!("{MISSING_HEADER} `{}`", header.display()));
    }
    // Burn panics, on threads of its own too, where it cannot load the vendor's libraries: their messages are the reason.
    let panics = Arc::new(Mutex::new(String::new()));
    let usual = take_hook();
    set_hook(Box::new({
        let panics = panics.clone();
        move |panic| {
            let message = panic.payload_as_str().unwrap_or("panic without a message");
            let mut panics = panics.lock().unwrap_or_else(PoisonError::into_inner);
            panics.push_str(message);
            panics.push('\n');
        }
    }));
    let ran = catch_unwind(AssertUnwindSafe(|| {
        choose_kernels(backend, cards);
        let ones = Tensor::<1>::ones([32], device);
        (ones * 2.0 + 1.0).try_into_data()
    }));
    set_hook(usual);
    let panics = panics.lock().unwrap_or_else(PoisonError::into_inner);
    match ran {
        // A kernel that did not compile leaves its output as it was: reading that succeeds.
        Ok(Ok(_)) if panics.is_empty() => Ok(()),
        Ok(Ok(_)) | Err(_) => Err(panics.clone()),
        Ok(Err(error)) => Err(format!("{panics}{error}")),
    }
}

/// How the reason of a missing header begins.
const MISSING_HEADER: &str = "cannot open source file";

/// The folder whose headers Burn's kernels are compiled with, if there is one.
fn cuda_folder() -> Option<PathBuf> {
    match std::env::var_os("CUDA_PATH") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => ["/usr/local/cuda", "/opt/cuda"]
            .into_iter()
            .map(PathBuf::from)
            .find(|folder| folder.exists()),
    }
}

/// The first header that kernels include and that is not in CUDA's folder.
fn missing_header(cuda: &Path) -> Option<PathBuf> {
    let include = cuda.join("include");
    let plain = ["cuda_fp16.h", "cuda_bf16.h", "crt/mma.h"].map(|name| include.join(name));
    if let Some(missing) = plain.into_iter().find(|header| !header.exists()) {
        return Some(missing);
    }
    // CUDA 13 moved it into a folder of its own.
    let barriers = ["cccl/cuda/barrier", "cuda/barrier"].map(|name| include.join(name));
    let found = barriers.iter().any(|header| header.exists());
    (!found).then(|| barriers[0].clone())
}

/// Switches to the kernels that these cards compiled and tuned before.
#[cfg(feature = "tuned")]
fn choose_kernels(backend: &str, cards: &[Device]) {
    let models: Vec<String> = cards
        .iter()
        .filter_map(|card| crate::machine::identity(card).map(|(name, _)| name))
        .collect();
    crate::kernel_cache::switch_to(&kernels_of(backend, &models));
}

#[cfg(not(feature = "tuned"))]
fn choose_kernels(_: &str, _: &[Device]) {}

/// The name of the file of these cards' kernels: the backend and the models, each once if all are alike. The tuner's keys name a
/// card's place in the machine but not its model, so each model (or row of models, in a machine that has several) needs its own.
#[cfg(any(feature = "tuned", test))]
fn kernels_of(backend: &str, models: &[String]) -> String {
    let mut models: Vec<&String> = models.iter().collect();
    if models.windows(2).all(|pair| pair[0] == pair[1]) {
        models.truncate(1);
    }
    let words: Vec<String> = std::iter::once(backend)
        .chain(models.into_iter().map(String::as_str))
        .flat_map(|name| name.split(|c: char| !c.is_ascii_alphanumeric()))
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

/// In words why a GPU ran no kernel, and the cure.
pub(crate) fn cure(reason: &str) -> (String, &'static str) {
    let has = |part: &str| reason.contains(part);
    if has("\"nvrtc\"") {
        return (
            "NVRTC, which compiles its kernels, was not found".into(),
            "install CUDA 12 or 13, or the Python package `nvidia-cuda-nvrtc`, and put the folder of `libnvrtc.so` on LD_LIBRARY_PATH \
             (docs/devices.md)",
        );
    }
    if has("CUDA installation not found") {
        return (
            "CUDA's headers, which its kernels include, were not found".into(),
            "install CUDA 12 or 13, or the Python packages `nvidia-cuda-runtime`, `nvidia-cuda-crt` and `nvidia-cuda-cccl`, and set \
             CUDA_PATH to the folder that has `include` (docs/devices.md)",
        );
    }
    if has(MISSING_HEADER) || has("could not open source file") {
        return (
            format!(
                "a header that its kernels include was not found: {}",
                brief(reason).trim_start_matches(MISSING_HEADER).trim()
            ),
            "set CUDA_PATH to the folder of a whole CUDA 12 or 13; of Python packages, `nvidia-cuda-runtime`, `nvidia-cuda-crt` and \
             `nvidia-cuda-cccl` together have them (docs/devices.md)",
        );
    }
    if has("UNSUPPORTED_PTX_VERSION") || has("INVALID_PTX") || has("NO_BINARY_FOR_GPU") {
        return (
            format!("its driver refuses the compiled kernels: {}", brief(reason)),
            "NVRTC is newer than the driver: update the driver, or put an NVRTC of the driver's CUDA version on LD_LIBRARY_PATH \
             (`nvidia-smi` prints that version)",
        );
    }
    if has("invalid value for --gpu-architecture") {
        return (
            "NVRTC is too old for this GPU".into(),
            "put a newer NVRTC on LD_LIBRARY_PATH, up to the CUDA version that `nvidia-smi` prints",
        );
    }
    if has("hiprtc") || has("amdhip64") {
        return (
            format!("a library of ROCm was not found: {}", brief(reason)),
            "install ROCm 6 or 7 and put its `lib` folder on LD_LIBRARY_PATH (docs/devices.md)",
        );
    }
    if has("built without LLVM") {
        return (
            "this program was built without a compiler of kernels".into(),
            "build it with `scripts/build-gpu.sh`, or with the feature `cpp`",
        );
    }
    (
        format!("it ran no kernel: {}", brief(reason)),
        "update the GPU's driver; docs/devices.md says what each backend needs",
    )
}

/// The first lines of a reason: a compiler's log holds the whole source.
fn brief(reason: &str) -> String {
    let lines: Vec<&str> = reason
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(3)
        .collect();
    let text = lines.join("; ");
    match text.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reasons_have_their_cure() {
        let cases = [
            (
                "Unable to dynamically load the \"nvrtc\" shared library - searched for",
                "NVRTC",
                "nvidia-cuda-nvrtc",
            ),
            (
                "\n  CUDA installation not found.\n  Please",
                "headers",
                "CUDA_PATH",
            ),
            (
                "[Compilation Error]\n cannot open source file \"crt/mma.h\"",
                "mma.h",
                "CUDA_PATH",
            ),
            (
                "Unable to load the PTX: DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION)",
                "driver refuses",
                "nvidia-smi",
            ),
            (
                "libhiprtc.so: cannot open shared object file (hiprtc)",
                "ROCm",
                "LD_LIBRARY_PATH",
            ),
            ("something new", "something new", "driver"),
        ];
        for (reason, message, hint) in cases {
            let (found, cure) = cure(reason);
            assert!(
                found.contains(message) && cure.contains(hint),
                "{reason}: {found}; {cure}"
            );
        }
    }

    #[test]
    fn each_model_has_a_file_of_its_own() {
        let models = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(kernels_of("cuda", &models(&["NVIDIA H200"])), "cuda-nvidia-h200");
        assert_eq!(
            kernels_of("cuda", &models(&["NVIDIA H200", "NVIDIA H200"])),
            "cuda-nvidia-h200"
        );
        assert_eq!(
            kernels_of(
                "vulkan",
                &models(&["AMD Radeon RX 7900 XTX (RADV NAVI31)", "llvmpipe"])
            ),
            "vulkan-amd-radeon-rx-7900-xtx-radv-navi31-llvmpipe"
        );
        assert_eq!(kernels_of("rocm", &[]), "rocm");
    }

    #[test]
    fn headers_are_looked_for() {
        let cuda = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = cuda.path().join("include").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let missing = || missing_header(cuda.path()).map(|header| header.file_name().unwrap().to_owned());
        assert_eq!(missing().unwrap(), "cuda_fp16.h");
        make("cuda_fp16.h");
        make("cuda_bf16.h");
        assert_eq!(missing().unwrap(), "mma.h");
        make("crt/mma.h");
        assert_eq!(missing().unwrap(), "barrier");
        make("cuda/barrier");
        assert_eq!(missing(), None);
    }

    #[test]
    fn a_compilers_log_is_cut() {
        let log = format!("first\n\n second\nthird\nfourth {}", "x".repeat(5000));
        assert_eq!(brief(&log), "first; second; third");
        assert!(brief(&"é".repeat(5000)).chars().count() == 401);
    }
}
