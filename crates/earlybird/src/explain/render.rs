//! A refusal as a picture over the source.

use std::collections::BTreeMap;

use annotate_snippets::{
    Annotation, AnnotationKind, Group, Level, Message, Renderer, Snippet, normalize_untrusted_str,
};
use bpf::object::ProgramSpec;
use bpf::verifier::explain::{Explanation, Label};
use control::Refusal;

use super::source::{Sources, Spot, near};

/// Where the picture is going.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// To a file or a pipe: text alone.
    Plain,
    /// To a terminal: with colour.
    Colour,
}

/// Draws why a program was refused.
#[must_use]
pub fn render(program: &ProgramSpec, refusal: &Refusal, style: Style) -> String {
    let explanation = refusal.explanation.as_deref();
    let at = explanation.map(|e| e.at.clone()).or_else(|| {
        let text = refusal.rule.map_or("refused here", |r| r.title).to_owned();
        refusal.insn.map(|insn| Label { insn, text })
    });
    let title = refusal.rule.map_or_else(|| one_line(&refusal.message), |r| r.title.to_owned());
    let mut title = Level::ERROR.primary_title(normalize_untrusted_str(&title));
    if let Some(rule) = refusal.rule {
        title = title.id(rule.id.to_string());
    }
    let mut group = Group::with_title(title);
    for snippet in at.iter().flat_map(|at| snippets(program, at, explanation)) {
        group = group.element(snippet);
    }
    let group = group.elements(notes(refusal, explanation));
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Colour => Renderer::styled(),
    };
    let mut text = renderer.render(&[group]);
    text.push('\n');
    text
}

/// One picture for each file, that of the main place first.
fn snippets(
    program: &ProgramSpec,
    at: &Label,
    explanation: Option<&Explanation>,
) -> Vec<Snippet<'static, Annotation<'static>>> {
    let sources = Sources::new(program, at.insn);
    let Some(main) = sources.spot(at.insn) else { return Vec::new() };
    // The file of the main place comes first.
    let key = |spot: &Spot| (spot.file != main.file, spot.file.clone());
    let mark = |spot: &Spot, kind, text: &str| Mark { spot: spot.clone(), kind, text: text.to_owned() };
    let mut files: BTreeMap<(bool, String), Vec<Mark>> = BTreeMap::new();
    files.insert(key(&main), vec![mark(&main, AnnotationKind::Primary, "")]);
    for label in explanation.map_or(&[][..], |e| &e.story) {
        let Some(spot) = sources.spot(label.insn) else { continue };
        if spot.file == main.file && !near(spot.line, main.line) {
            continue;
        }
        let marks = files.entry(key(&spot)).or_default();
        match marks.iter_mut().find(|m| m.spot == spot) {
            Some(m) if m.kind == AnnotationKind::Primary => m.text += &format!("{}; ", label.text),
            Some(m) => m.text += &format!("; then {}", label.text),
            None => marks.push(mark(&spot, AnnotationKind::Context, &label.text)),
        }
    }
    // What is wrong ends what happened at its place.
    files.entry(key(&main)).and_modify(|marks| marks[0].text += &at.text);
    files.into_iter().map(|((_, file), marks)| snippet(&sources, &file, &marks)).collect()
}

/// A label at its place.
struct Mark {
    spot: Spot,
    kind: AnnotationKind,
    text: String,
}

/// The picture of one file.
fn snippet(sources: &Sources<'_>, file: &str, marks: &[Mark]) -> Snippet<'static, Annotation<'static>> {
    let excerpt = sources.excerpt(file, marks[0].spot.line);
    let annotations: Vec<_> = marks
        .iter()
        .filter_map(|m| Some(m.kind.span(excerpt.span(&m.spot)?).label(normalize_untrusted_str(&m.text))))
        .collect();
    Snippet::source(excerpt.text)
        .line_start(excerpt.first_line as usize)
        .path(normalize_untrusted_str(file))
        .fold(true)
        .annotations(annotations)
}

/// What stands below the picture.
fn notes(refusal: &Refusal, explanation: Option<&Explanation>) -> Vec<Message<'static>> {
    let note = |text: String| Level::NOTE.message(normalize_untrusted_str(&text));
    let mut notes = Vec::new();
    if !refusal.message.is_empty() {
        notes.push(note(format!("the kernel's words: {}", one_line(&refusal.message))));
    }
    if let Some(e) = explanation {
        if !e.known.is_empty() {
            notes.push(note(format!("known here: {}", e.known.join("; "))));
        }
        notes.extend(e.needed.iter().map(|needed| note(format!("needed: {needed}"))));
        notes.push(note(format!("cause: {}", e.cause.text())));
    }
    let Some(rule) = refusal.rule else { return notes };
    let help = explanation.and_then(|e| e.why.as_deref()).unwrap_or(rule.help);
    notes.push(Level::HELP.message(help.to_owned()));
    notes.push(Level::HELP.message(format!("`earlybird explain {}` tells more", rule.id)));
    notes
}

fn one_line(message: &str) -> String {
    let states = |l: &&str| l.starts_with("cur state:") || l.starts_with("old state:");
    let lines = message.lines().map(str::trim).filter(|l| !l.is_empty() && !states(l));
    lines.collect::<Vec<_>>().join("; ")
}
