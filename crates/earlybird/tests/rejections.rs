//! The programs of `testdata/verifier/rejections`: each has a function `refused` that breaks the rule named at the
//! head of the file, at the line named there, and a function `mended` that does not.
//!
//! `UPDATE=1` writes the pictures (`NAME.txt`) anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bpf::object::ProgramSpec;
use bpf::verifier::rules::{RULES, Rule, RuleId};
use control::{Backend, Refusal, Verification};
use earlybird::backends::{self, EngineSettings};
use earlybird::explain::{Style, page, render};
use earlybird::{Object, object::Home};

struct Case {
    name: String,
    source: String,
    rule: &'static Rule,
    line: u32,
    /// `limit`, `lowering`; what the rule says if the file says nothing.
    cause: Option<String>,
    object: Object,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/verifier/rejections")
}

fn cases(home: Home) -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "c") {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let head = |what| source.lines().find_map(|l| l.strip_prefix(what));
        let expected = head("// Rejected: ").expect("an expectation");
        let (id, line) = expected.split_once(" at line ").expect("EB0000 at line N");
        cases.push(Case {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            rule: RuleId::parse(id).and_then(Rule::by_id).expect("a rule"),
            line: line.parse().expect("a line"),
            cause: head("// Cause: ").map(str::to_owned),
            object: Object::open_for(&path.with_extension("o"), home).expect("an object"),
            source,
        });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

impl Case {
    fn verify(&self, backend: &mut dyn Backend, program: &str) -> Verification {
        backend
            .verify(self.object.spec(), program, 0)
            .unwrap_or_else(|e| panic!("{}: {program}: {e}", self.name))
    }

    fn program(&self) -> &ProgramSpec {
        self.object.spec().program(Some("refused")).expect("a program `refused`")
    }

    /// Line of the source to which an instruction belongs.
    fn line_of(&self, insn: u32) -> Option<u32> {
        let lines = &self.program().line_info;
        lines.iter().rev().find(|l| l.insn <= insn && l.line != 0).map(|l| l.line)
    }

    fn refusal(&self, backend: &mut dyn Backend) -> Refusal {
        self.verify(backend, "refused").refusal.unwrap_or_else(|| panic!("{}: is accepted", self.name))
    }

    /// A function of the source, as it stands there.
    fn function(&self, name: &str) -> &str {
        let at = self.source.find(&format!("int {name}(struct xdp_md")).expect("the function");
        let end = self.source[at..].find("\n}\n").expect("its end");
        &self.source[at..at + end + 2]
    }
}

#[test]
fn every_rejection_has_its_rule_its_place_and_its_picture() {
    let mut engine = backends::engine(&EngineSettings::default()).unwrap();
    let update = std::env::var_os("UPDATE").is_some();
    let mut differing = Vec::new();
    let cases = cases(Home::Engine);
    for case in &cases {
        let refusal = case.refusal(&mut *engine);
        let name = &case.name;
        assert_eq!(refusal.rule.map(|r| r.id), Some(case.rule.id), "{name}: {}", refusal.message);
        let line = refusal.insn.and_then(|i| case.line_of(i));
        assert_eq!(line, Some(case.line), "{name}: {}", refusal.message);
        let cause = refusal.explanation.as_ref().map(|e| e.cause).expect("an explanation");
        let expected = case.cause.clone().unwrap_or_else(|| format!("{:?}", case.rule.cause).to_lowercase());
        assert_eq!(format!("{cause:?}").to_lowercase(), expected, "{name}");
        let picture = render(case.program(), &refusal, Style::Plain);
        let path = folder().join(name).with_extension("txt");
        if update {
            fs::write(&path, &picture).unwrap();
        } else if fs::read_to_string(&path).ok().as_ref() != Some(&picture) {
            differing.push(format!("{name}:\n{picture}"));
        }
        let mended = case.verify(&mut *engine, "mended").refusal;
        assert!(mended.is_none(), "{name}: mended is refused: {mended:?}");
    }
    assert!(
        differing.is_empty(),
        "other pictures than before (UPDATE=1 takes them):\n{}",
        differing.join("\n")
    );
    assert!(cases.len() >= 60, "{} programs", cases.len());
    let families = |rules: &mut dyn Iterator<Item = &Rule>| rules.map(|r| r.family).collect::<BTreeSet<_>>();
    assert_eq!(
        families(&mut cases.iter().map(|c| c.rule)),
        families(&mut RULES.iter()),
        "families without a program"
    );
}

#[test]
fn every_rule_has_a_page_with_the_programs_of_the_tests() {
    for rule in RULES {
        let page = page(rule.id).unwrap_or_else(|| panic!("{}: no page", rule.id));
        assert!(page.starts_with(&format!("# {}: {}\n", rule.id, rule.title)), "{}: another title", rule.id);
        for part in ["## Refused", "## Mended", "## Limits"].into_iter().chain(rule.messages.iter().copied())
        {
            assert!(page.contains(part), "{}: the page lacks {part:?}", rule.id);
        }
        assert!(page.contains(rule.help), "{}: the page gives other help", rule.id);
    }
    // A second program for a rule shows another cause and is not on the page.
    for case in cases(Home::Engine).iter().filter(|c| c.cause.is_none()) {
        let page = page(case.rule.id).unwrap_or_default();
        for function in ["refused", "mended"] {
            assert!(
                page.contains(case.function(function)),
                "{}: the page has another {function}()",
                case.name
            );
        }
        assert!(page.contains(&format!("rejections/{}.c", case.name)), "{}: not named", case.name);
    }
}

/// The kernel refuses the same programs with the same words, and accepts the mended ones.
#[test]
fn kernel_refuses_the_same_with_the_same_words() {
    let mut kernel = match backends::kernel() {
        Ok(kernel) => kernel,
        Err(why) => return eprintln!("SKIPPED, nothing was compared: needs the running kernel: {why:#}"),
    };
    let mut engine = backends::engine(&EngineSettings::default()).unwrap();
    let mut differing = Vec::new();
    for case in cases(Home::Kernel) {
        let (ours, theirs) = (case.refusal(&mut *engine), case.refusal(&mut *kernel));
        let words = |r: &Refusal| (r.errno, r.rule.map(|r| r.id), r.message.clone());
        if words(&ours) != words(&theirs) {
            differing.push(format!("{}: engine {:?}, kernel {:?}", case.name, words(&ours), words(&theirs)));
        }
        if let Some(refusal) = case.verify(&mut *kernel, "mended").refusal {
            differing.push(format!("{}: the kernel refuses mended: {}", case.name, refusal.message));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

/// The log as far as it does not depend on where and when: without addresses of maps, times, and the kernel's
/// trace of which stack slots are live, which the engine does not write.
fn normal(log: &str) -> Vec<String> {
    let own = |line: &&str| {
        let statistics = ["verification time ", "stack depth "].iter().any(|p| line.starts_with(p));
        let liveness = line.starts_with('(') && (line.contains(") frame ") || line.contains(") live stack "));
        !line.is_empty() && !statistics && !liveness
    };
    let line = |line: &str| match line.split_once(" = 0x").filter(|(head, _)| head.contains("(18) r")) {
        Some((head, rest)) => format!("{head}{}", rest.split_once(';').map_or("", |(_, state)| state)),
        // States held at one time: the engine frees some earlier.
        None => line.split(" peak_states ").next().unwrap_or_default().to_owned(),
    };
    log.lines().filter(own).map(line).map(|line| without_templates(&line)).collect()
}

/// A line without the names of templates of inner maps, which have none on the kernel.
fn without_templates(line: &str) -> String {
    let mut parts = line.split("map=");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(',') {
            Some((name, rest)) if name.contains(".inn") => out += rest,
            _ => out = out + "map=" + part,
        }
    }
    out
}

fn same_log(
    name: &str,
    level: u32,
    object: &Object,
    program: &str,
    homes: &mut [Box<dyn Backend>; 2],
) -> usize {
    let [mut ours, theirs] = homes.each_mut().map(|home| {
        let verdict = home.verify(object.spec(), program, level).unwrap_or_else(|e| panic!("{name}: {e}"));
        normal(&verdict.log)
    });
    // A function written in assembly alone is loaded without line numbers.
    if !theirs.iter().any(|line| line.starts_with("; ")) {
        ours.retain(|line| !line.starts_with("; "));
    }
    let differing = ours.iter().zip(&theirs).position(|(a, b)| a != b);
    let at = differing.unwrap_or(ours.len().min(theirs.len()));
    assert!(ours == theirs, "{name}, line {at}:\nengine {:?}\nkernel {:?}", ours.get(at), theirs.get(at));
    ours.len()
}

/// Level 1 for what is refused, level 2 for all programs of `programs/`: line for line the kernel's.
#[test]
fn kernel_log_has_the_same_form() {
    let kernel = match backends::kernel() {
        Ok(kernel) => kernel,
        Err(why) => return eprintln!("SKIPPED, nothing was compared: needs the running kernel: {why:#}"),
    };
    let mut homes = [backends::engine(&EngineSettings::default()).unwrap(), kernel];
    let mut lines = 0;
    for case in cases(Home::Kernel) {
        lines += same_log(&case.name, 1, &case.object, "refused", &mut homes);
    }
    for entry in fs::read_dir(folder().join("../../../programs")).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_str().unwrap().ends_with(".bpf.o") {
            continue;
        }
        let object = Object::open_for(&path, Home::Kernel).unwrap();
        for program in &object.spec().programs {
            lines += same_log(&path.display().to_string(), 2, &object, &program.name, &mut homes);
        }
    }
    println!("{lines} lines compared");
    assert!(lines > 10_000, "only {lines} lines compared");
}
