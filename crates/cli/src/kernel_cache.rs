//! A GPU's compiled kernels and the tuner's choices, kept on disk between runs.
//!
//! Compiling and timing the kernels of a network takes minutes. Without this folder every run, evaluation and resume would do it
//! again. Only backends that tune have it (feature `tuned`).

use burn::cubecl::config::cache::CacheConfig;
use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use burn::cubecl::environment;
use etcetera::BaseStrategy;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The variable that names another folder.
const VARIABLE: &str = "PASSER_CACHE_DIR";

/// The folder of this process; `None` if nothing can be written there.
static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Gives Burn the folder. Only the first call has an effect; it comes before any GPU is opened, because Burn reads its settings
/// once.
pub(crate) fn prepare() {
    FOLDER.get_or_init(|| {
        let folder = match writable_folder() {
            Ok(folder) => Some(folder),
            Err(reason) => {
                eprintln!(
                    "warning: kernels are compiled and tuned again in each run: {reason}; {VARIABLE} names another folder"
                );
                None
            }
        };
        // A user's `cubecl.toml` and CUBECL_… variables still decide all else.
        let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        config.compilation.cache = folder.is_some();
        config.autotune.disable_cache |= folder.is_none();
        if let Some(folder) = &folder {
            config.environment.path = CacheConfig::Directory(folder.clone());
        }
        config.environment.records = burn::cubecl::records::RecordsConfig {
            level: burn::cubecl::records::RecordLevel::Off,
            ..Default::default()
        };
        // It was set only if a device is open already, and then by this function.
        let _ = CubeClRuntimeConfig::try_set(config);
        folder
    });
}

/// Switches to the kernels in the file of this name, before the first kernel.
pub(crate) fn switch_to(name: &str) {
    let Some(Some(folder)) = FOLDER.get() else {
        return;
    };
    if !folder.join(format!("{name}.db")).exists() {
        eprintln!(
            "first run on this GPU: compiling and tuning its kernels takes minutes; they are kept in `{}`",
            folder.display()
        );
    }
    environment::activate(name);
}

/// The folder and the bytes of its files.
///
/// # Errors
/// The reason why nothing can be written there.
pub(crate) fn folder_and_bytes() -> Result<(PathBuf, u64), String> {
    let folder = writable_folder()?;
    let entries = std::fs::read_dir(&folder).map_err(|error| error.to_string())?;
    let sizes = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
    let bytes = sizes.sum();
    Ok((folder, bytes))
}

/// The folder, made and written to once.
fn writable_folder() -> Result<PathBuf, String> {
    let folder = match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => etcetera::choose_base_strategy()
            .map_err(|_| "this user has no home folder".to_string())?
            .cache_dir()
            .join("passer")
            .join("kernels"),
    };
    probe(&folder).map_err(|error| format!("cannot write into `{}`: {error}", folder.display()))?;
    Ok(folder)
}

/// Writes and removes a file: the database itself reports nothing if it cannot be written.
fn probe(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join(format!("probe-{}", std::process::id()));
    std::fs::write(&file, b"passer")?;
    std::fs::remove_file(&file)
}
