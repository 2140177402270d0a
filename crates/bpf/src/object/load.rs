//! [`ObjectSpec::parse`]: the order in which an object is read.

use super::elf::Elf;
use super::error::{ObjectError, Outcome, Problem};
use super::externs::Externs;
use super::fixup::complete_btf;
use super::functions::{Context, Functions};
use super::link::Linker;
use super::maps::Maps;
use super::section_name;
use super::spec::{ObjectSpec, ProgramSpec, SectionKind, UnusableProgram};
use super::target::Target;
use crate::btf::{Btf, BtfExt};

/// Longest license, bytes; libbpf cuts there.
const LICENSE_MAX: usize = 63;

impl ObjectSpec {
    /// Reads an object file and prepares its programs for a home.
    ///
    /// What a section means is known by its name; sections of unknown names are left alone, as libbpf does.
    /// A program that cannot be prepared is an error if it is an XDP program that loading the object would
    /// load; any other is kept in [`ObjectSpec::unusable`].
    ///
    /// # Errors
    ///
    /// What is damaged or cannot be prepared: object, section, symbol, reason.
    pub fn parse(bytes: &[u8], name: &str, target: &Target) -> Result<Self, ObjectError> {
        parse(bytes, name, target).map_err(|problem| problem.of(name))
    }
}

fn parse(bytes: &[u8], name: &str, target: &Target) -> Outcome<ObjectSpec> {
    let elf = Elf::parse(bytes)?;
    let mut warnings = Vec::new();
    let mut btf = read_btf(&elf, &mut warnings)?;
    let ext = read_btf_ext(&elf, btf.as_ref())?;
    let externs = Externs::collect(&elf, btf.as_ref(), target);
    if let Some(btf) = &mut btf {
        for section in complete_btf(btf, &elf, &externs.kconfig_offsets()) {
            warnings.push(format!("BTF describes a section {section:?} that the file does not have"));
        }
    }
    let btf = btf.as_ref();
    let mut maps = Maps::collect(&elf, btf, target)?;
    if let Some(map) = externs.kconfig_map(btf) {
        maps.kconfig = Some(maps.list.len());
        maps.list.push(map);
    }
    let mut functions = Functions::collect(&elf)?;
    let context =
        Context { elf: &elf, btf, ext: &ext, target: target.btf.as_deref(), maps: &maps, externs: &externs };
    functions.relocate(&context)?;
    maps.fill_slots(&elf, &functions)?;
    let (programs, unusable) = link_all(&elf, &functions, &externs, btf)?;
    Ok(ObjectSpec {
        name: name.to_owned(),
        license: license(&elf),
        version: version(&elf)?,
        maps: maps.list,
        programs,
        unusable,
        btf: btf.cloned().map(std::sync::Arc::new),
        warnings,
    })
}

/// The object's types. Damaged ones are an error only where something depends on them, as in libbpf.
fn read_btf(elf: &Elf<'_>, warnings: &mut Vec<String>) -> Outcome<Option<Btf>> {
    let Some(section) = elf.section_named(".BTF") else { return Ok(None) };
    match Btf::parse(elf.sections[section].data) {
        Ok(btf) => Ok(Some(btf)),
        Err(e) => {
            let needed = elf.section_named(".maps").is_some() || elf.symbols.iter().any(|s| s.is_extern());
            if needed {
                return Err(Problem::new(e.to_string()).in_section(".BTF"));
            }
            warnings.push(format!("section \".BTF\" is not used: {e}"));
            Ok(None)
        }
    }
}

fn read_btf_ext(elf: &Elf<'_>, btf: Option<&Btf>) -> Outcome<BtfExt> {
    let (Some(section), Some(btf)) = (elf.section_named(".BTF.ext"), btf) else {
        return Ok(BtfExt::default());
    };
    let data = elf.sections[section].data;
    BtfExt::parse(data, btf).map_err(|reason| Problem::new(reason).in_section(".BTF.ext"))
}

type Programs = (Vec<ProgramSpec>, Vec<UnusableProgram>);

fn link_all(
    elf: &Elf<'_>,
    functions: &Functions<'_>,
    externs: &Externs<'_>,
    btf: Option<&Btf>,
) -> Outcome<Programs> {
    let mut linker = Linker::new(functions, externs, btf);
    let (mut programs, mut unusable) = (Vec::new(), Vec::new());
    for (id, f) in functions.list.iter().enumerate().filter(|(_, f)| f.is_entry) {
        let section = elf.sections[f.section].name;
        let meaning = section_name::read(section);
        match linker.link(id, section) {
            Ok(program) => programs.push(program),
            Err(problem) => {
                let problem = problem.in_section(section).in_symbol(f.name);
                if meaning.kind == SectionKind::Xdp && meaning.autoload {
                    return Err(problem);
                }
                let (name, section) = (f.name.to_owned(), meaning.name.to_owned());
                unusable.push(UnusableProgram { name, section, problem });
            }
        }
    }
    Ok((programs, unusable))
}

fn license(elf: &Elf<'_>) -> String {
    let Some(section) = elf.section_named("license") else { return String::new() };
    let data = elf.sections[section].data;
    let text = data.split(|&b| b == 0).next().unwrap_or(&[]);
    String::from_utf8_lossy(&text[..text.len().min(LICENSE_MAX)]).into_owned()
}

fn version(elf: &Elf<'_>) -> Outcome<u32> {
    let Some(section) = elf.section_named("version") else { return Ok(0) };
    let data = elf.sections[section].data;
    let bytes = <[u8; 4]>::try_from(data);
    let bytes = bytes.map_err(|_| {
        Problem::new(format!("it has {} bytes, where a version has 4", data.len())).in_section("version")
    })?;
    Ok(u32::from_le_bytes(bytes))
}
