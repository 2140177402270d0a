//! The kernel's own verifier tests: fetched from Debian and built with clang.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Debian's package of the source.
const PACKAGE: &str = "linux-source-6.12";
const CLANG: &str = "clang-19";
/// The tests made for the verifier alone begin so.
pub(crate) const VERIFIER_TESTS: &str = "verifier_";

/// The unpacked source and where built things go.
pub(crate) struct Source {
    pub(crate) tree: PathBuf,
    pub(crate) build: PathBuf,
}

impl Source {
    /// Unpacks the source below `dir`, installing the package first if need be.
    pub(crate) fn fetch(dir: &Path) -> Result<Self> {
        let tree = dir.join(PACKAGE);
        let build = dir.join("build");
        if !tree.join("tools/testing/selftests/bpf/progs").is_dir() {
            let archive = PathBuf::from(format!("/usr/src/{PACKAGE}.tar.xz"));
            if !archive.is_file() {
                run(Command::new("apt-get").args(["install", "-y", PACKAGE]))?;
            }
            fs::create_dir_all(dir)?;
            let parts =
                ["tools/testing/selftests/bpf", "tools/lib/bpf", "tools/include", "include", "scripts"];
            let parts = parts.map(|p| format!("{PACKAGE}/{p}"));
            run(Command::new("tar").arg("xf").arg(&archive).arg("-C").arg(dir).args(&parts))?;
        }
        let source = Self { tree, build };
        source.headers()?;
        Ok(source)
    }

    pub(crate) fn selftests(&self) -> PathBuf {
        self.tree.join("tools/testing/selftests/bpf")
    }

    /// `vmlinux.h` of the running kernel and libbpf's headers.
    fn headers(&self) -> Result<()> {
        let inc = self.build.join("inc/bpf");
        fs::create_dir_all(&inc)?;
        let vmlinux = self.build.join("inc/vmlinux.h");
        if !vmlinux.is_file() {
            let out = Command::new("bpftool")
                .args(["btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "c"])
                .output()
                .context("bpftool is needed for vmlinux.h")?;
            fs::write(&vmlinux, out.stdout)?;
        }
        let defs = inc.join("bpf_helper_defs.h");
        if !defs.is_file() {
            for f in fs::read_dir(self.tree.join("tools/lib/bpf"))? {
                let f = f?.path();
                if f.extension().is_some_and(|e| e == "h") {
                    fs::copy(&f, inc.join(f.file_name().unwrap_or_default()))?;
                }
            }
            let out = Command::new("python3")
                .arg(self.tree.join("scripts/bpf_doc.py"))
                .args(["--header", "--file"])
                .arg(self.tree.join("include/uapi/linux/bpf.h"))
                .output()
                .context("python3 is needed for bpf_helper_defs.h")?;
            fs::write(&defs, out.stdout)?;
        }
        Ok(())
    }

    /// Builds the tests whose file names begin with `prefix` and contain `filter`; names the objects, in
    /// order. Other tests than `verifier_*.c` may need more than a compiler: those that fail are named.
    pub(crate) fn build_programs(&self, prefix: &str, filter: &str) -> Result<Vec<PathBuf>> {
        let out = self.build.join("progs");
        fs::create_dir_all(&out)?;
        let mut files: Vec<PathBuf> = fs::read_dir(self.selftests().join("progs"))?
            .filter_map(|f| f.ok().map(|f| f.path()))
            .filter(|f| {
                let name = f.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(prefix) && name.ends_with(".c") && name.contains(filter)
            })
            .collect();
        files.sort();
        let mut objects = Vec::new();
        for f in files {
            let object = out.join(f.with_extension("bpf.o").file_name().unwrap_or_default());
            if !object.is_file()
                && let Err(e) = self.compile(&f, &object)
            {
                if prefix == VERIFIER_TESTS {
                    return Err(e);
                }
                println!("not built {}", f.file_name().unwrap_or_default().to_string_lossy());
                continue;
            }
            objects.push(object);
        }
        Ok(objects)
    }

    fn compile(&self, file: &Path, object: &Path) -> Result<()> {
        run(Command::new(CLANG)
            .stderr(std::process::Stdio::null())
            .args(["-g", "-O2", "-std=gnu11", "-Wno-everything", "-fno-strict-aliasing"])
            .args([
                "--target=bpfel",
                "-mcpu=v3",
                "-D__TARGET_ARCH_x86",
                "-mlittle-endian",
                "-DENABLE_ATOMICS_TESTS",
            ])
            .arg("-I")
            .arg(self.build.join("inc"))
            .arg("-I")
            .arg(self.build.join("inc/bpf"))
            .arg("-I")
            .arg(self.selftests())
            .arg("-I")
            .arg(self.tree.join("tools/include/uapi"))
            .arg("-I")
            .arg(self.tree.join("tools/include"))
            .arg("-I")
            .arg(self.tree.join("include/uapi"))
            .args(["-idirafter", "/usr/include/x86_64-linux-gnu", "-idirafter", "/usr/include"])
            .arg("-c")
            .arg(file)
            .arg("-o")
            .arg(object))
    }
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
