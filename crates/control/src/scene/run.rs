//! Playing a scene on a home, step by step, and holding what came of it against what was claimed.

use std::collections::BTreeMap;

use bpf::maps::MapDef;

use super::{Action, Scene, SceneError, Step};

/// Counters by name: `DEVICE.NAME` as ethtool has them, `DEVICE.link.NAME`, and on the engine `drop.REASON`.
pub type Counters = BTreeMap<String, u64>;

/// What a home answers to an action: done, or refused with `ERRNO` or `ERRNO: TEXT`.
pub type Answer = Result<(), String>;

/// Where a scene is played. Devices, objects and everything else of it end with the value.
pub trait SceneHome {
    /// `engine` or `kernel`.
    fn name(&self) -> &'static str;

    /// A step begins. Most homes need not know.
    fn begin(&mut self, step: &Step) {
        let _ = step;
    }

    /// Does something, and lets everything come to rest that follows from it.
    ///
    /// # Errors
    ///
    /// If it could not even be tried.
    fn act(&mut self, action: &Action) -> Result<Answer, SceneError>;

    /// All counters.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    fn counters(&mut self) -> Result<Counters, SceneError>;

    /// Packets that reached the stack since the last call, by device.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    fn take_received(&mut self) -> Result<Vec<(String, Vec<u8>)>, SceneError>;

    /// Events since the last call, with the names of devices, programs and maps instead of their numbers.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    fn take_events(&mut self) -> Result<Vec<String>, SceneError>;

    /// The value of a map's entry as a number; values of several CPUs are added up.
    ///
    /// # Errors
    ///
    /// If there is no such map or entry.
    fn map_value(&mut self, object: &str, map: &str, key: u32) -> Result<u64, SceneError>;
}

/// How a scene went on a home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SceneReport {
    /// Name of the home.
    pub home: &'static str,
    /// Steps that were taken; a scene ends with the first that fails.
    pub steps: Vec<StepReport>,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// Line of the scene.
    pub line: usize,
    /// Answer to the action.
    pub answer: Answer,
    /// Counters that moved.
    pub moved: Counters,
    /// Packets that reached the stack, equal ones in a row as `N x DEVICE: BYTES`.
    pub received: Vec<String>,
    /// Events, equal ones in a row as `N x EVENT`.
    pub events: Vec<String>,
    /// What was claimed and is not so, or is so and was not claimed, one sentence each.
    pub failures: Vec<String>,
    /// All counters that are not zero, if something failed.
    pub state: Counters,
}

impl SceneReport {
    /// Whether everything was as claimed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.steps.iter().all(|s| s.failures.is_empty())
    }
}

/// Plays a scene. It ends with the first step that fails, unless it is to `go_on`.
///
/// # Errors
///
/// If the home cannot do what the scene asks for.
pub fn play(scene: &Scene, home: &mut dyn SceneHome, go_on: bool) -> Result<SceneReport, SceneError> {
    let mut report = SceneReport { home: home.name(), steps: Vec::new() };
    for step in &scene.steps {
        let taken = take(step, home).map_err(|e| match e {
            SceneError::Home(message) => {
                let path = scene.path.clone();
                SceneError::Line { path, line: step.line, message: format!("{}: {message}", home.name()) }
            }
            other => other,
        })?;
        let failed = !taken.failures.is_empty();
        report.steps.push(taken);
        if failed && !go_on {
            break;
        }
    }
    Ok(report)
}

fn take(step: &Step, home: &mut dyn SceneHome) -> Result<StepReport, SceneError> {
    home.begin(step);
    let before = home.counters()?;
    let answer = home.act(&step.action)?;
    let state = home.counters()?;
    let moved: Counters = state
        .iter()
        .map(|(name, n)| (name.clone(), n.wrapping_sub(before.get(name).copied().unwrap_or(0))))
        .filter(|(_, n)| *n > 0)
        .collect();
    let received =
        home.take_received()?.into_iter().map(|(device, bytes)| format!("{device}: {}", hex(&bytes)));
    let received = collapse(received);
    let events = collapse(home.take_events()?);
    let mut failures = Vec::new();
    match (&answer, &step.refused) {
        (Ok(()), None) => {}
        (Err(text), Some(wanted)) if text == wanted => {}
        (Err(text), wanted) => failures.push(format!("refused with {text:?}, not {wanted:?}")),
        (Ok(()), Some(wanted)) => failures.push(format!("done, but {wanted:?} was to refuse it")),
    }
    compare_counters(step, &moved, home.name() == "kernel", &mut failures);
    compare_received(step, &received, &mut failures);
    if let Some(wanted) = &step.events
        && *wanted != events
    {
        failures.push(format!("events {events:#?} instead of {wanted:#?}"));
    }
    for (entry, wanted) in &step.maps {
        let value = entry_value(home, entry)?;
        if value != *wanted {
            failures.push(format!("{entry} is {value}, not {wanted}"));
        }
    }
    let failed = !failures.is_empty();
    let state = if failed { state.into_iter().filter(|(_, n)| *n > 0).collect() } else { Counters::new() };
    Ok(StepReport { line: step.line, answer, moved, received, events, failures, state })
}

/// The counters that moved must be those that were claimed. The kernel has none for reasons of drops.
fn compare_counters(step: &Step, moved: &Counters, kernel: bool, failures: &mut Vec<String>) {
    // A conversation is judged by its end, unless counters are claimed.
    if matches!(step.action, Action::Host { .. }) && step.counters.is_empty() {
        return;
    }
    for (name, wanted) in &step.counters {
        let got = moved.get(name).copied().unwrap_or(0);
        if got != *wanted && !(kernel && name.starts_with("drop.")) {
            failures.push(format!("{name} moved by {got}, not {wanted}"));
        }
    }
    for (name, got) in moved.iter().filter(|(name, _)| !step.counters.contains_key(*name)) {
        failures.push(format!("{name} moved by {got}, which nobody claimed"));
    }
}

fn compare_received(step: &Step, received: &[String], failures: &mut Vec<String>) {
    let mut rest = received.iter().peekable();
    for wanted in &step.received {
        if wanted.contains(": ") {
            let got = rest.next();
            if got != Some(wanted) {
                failures.push(format!("received {got:?}, not {wanted:?}"));
            }
            continue;
        }
        // Without bytes so many packets in a row do, whatever they are.
        let (count, device) = wanted.split_once(" x ").unwrap_or(("1", wanted));
        let wanted_count: u64 = count.parse().unwrap_or(1);
        let mut left = wanted_count;
        while left > 0
            && let Some(n) = rest.peek().and_then(|got| of_device(got, device)).filter(|n| *n <= left)
        {
            left -= n;
            rest.next();
        }
        if left > 0 {
            let got = rest.peek();
            failures
                .push(format!("received {} x {device}, then {got:?}, not {wanted:?}", wanted_count - left));
        }
    }
    for got in rest {
        failures.push(format!("received {got:?}, which nobody expected"));
    }
}

/// How many packets a line `N x DEVICE: BYTES` has, if they are of this device.
fn of_device(line: &str, device: &str) -> Option<u64> {
    let (count, rest) = line.split_once(" x ")?;
    let (name, _) = rest.split_once(": ")?;
    if name == device { count.parse().ok() } else { None }
}

/// `OBJECT.MAP[KEY]`.
fn entry_value(home: &mut dyn SceneHome, entry: &str) -> Result<u64, SceneError> {
    let parts = || {
        let (object, rest) = entry.split_once('.')?;
        let (map, key) = rest.strip_suffix(']')?.split_once('[')?;
        Some((object, map, key.parse().ok()?))
    };
    let (object, map, key) =
        parts().ok_or_else(|| SceneError::Home(format!("{entry:?} is not OBJECT.MAP[KEY]")))?;
    home.map_value(object, map, key)
}

/// What two homes did differently: one sentence each, with the line of the step. Counters that only the engine
/// has are left out.
#[must_use]
pub fn differences(a: &SceneReport, b: &SceneReport) -> Vec<String> {
    let mut all = Vec::new();
    for (x, y) in a.steps.iter().zip(&b.steps) {
        let mut differ = |what: &str, left: String, right: String| {
            if left != right {
                all.push(format!("line {}: {what}: {} {left}, {} {right}", x.line, a.home, b.home));
            }
        };
        differ("answer", format!("{:?}", x.answer), format!("{:?}", y.answer));
        let common = |c: &Counters| {
            c.iter()
                .filter(|(n, _)| !n.starts_with("drop."))
                .map(|(n, v)| format!("{n}={v}"))
                .collect::<Vec<_>>()
        };
        differ("counters", format!("{:?}", common(&x.moved)), format!("{:?}", common(&y.moved)));
        differ("received", format!("{:?}", x.received), format!("{:?}", y.received));
        differ("events", format!("{:#?}", x.events), format!("{:#?}", y.events));
    }
    all
}

/// A map's value as a number; values of several CPUs are added up.
#[must_use]
pub fn map_number(def: &MapDef, value: &[u8]) -> u64 {
    let size = (def.value_size as usize).clamp(1, 8);
    let stride =
        if def.is_percpu() { (def.value_size as usize).next_multiple_of(8) } else { value.len().max(1) };
    let number = |bytes: &[u8]| {
        let mut word = [0; 8];
        let n = size.min(bytes.len());
        word[..n].copy_from_slice(&bytes[..n]);
        u64::from_le_bytes(word)
    };
    value.chunks(stride).map(number).fold(0, u64::wrapping_add)
}

/// Equal lines in a row as one with their number.
fn collapse(lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut runs: Vec<(u64, String)> = Vec::new();
    for line in lines {
        match runs.last_mut() {
            Some((n, last)) if *last == line => *n += 1,
            _ => runs.push((1, line)),
        }
    }
    runs.into_iter().map(|(n, line)| format!("{n} x {line}")).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// A home on which every send moves one counter and gives two packets.
    #[derive(Default)]
    struct Toy {
        sent: u64,
        packets: usize,
    }

    impl SceneHome for Toy {
        fn name(&self) -> &'static str {
            "toy"
        }
        fn act(&mut self, action: &Action) -> Result<Answer, SceneError> {
            if !matches!(action, Action::Send { .. }) {
                return Ok(Err("EINVAL".to_owned()));
            }
            self.sent += 1;
            self.packets += 2;
            Ok(Ok(()))
        }
        fn counters(&mut self) -> Result<Counters, SceneError> {
            Ok(Counters::from([("a.sent".to_owned(), self.sent)]))
        }
        fn take_received(&mut self) -> Result<Vec<(String, Vec<u8>)>, SceneError> {
            Ok((0..std::mem::take(&mut self.packets)).map(|_| ("b".to_owned(), vec![1, 2])).collect())
        }
        fn take_events(&mut self) -> Result<Vec<String>, SceneError> {
            Ok(Vec::new())
        }
        fn map_value(&mut self, _: &str, _: &str, key: u32) -> Result<u64, SceneError> {
            Ok(key.into())
        }
    }

    fn failures(step: &str) -> Vec<String> {
        let text = format!("title = \"t\"\n[[device]]\nveth = [\"a\", \"b\"]\n[[step]]\n{step}\n");
        let scene = Scene::parse(Path::new("s.toml"), &text).unwrap();
        let report = play(&scene, &mut Toy::default(), false).unwrap();
        assert_eq!(report.passed(), report.steps[0].failures.is_empty());
        report.steps[0].failures.clone()
    }

    #[test]
    fn what_is_not_claimed_fails() {
        let send = "send = { device = \"a\", packet = \"len 60\" }";
        let right = format!("{send}\ncounters = {{ \"a.sent\" = 1 }}\nreceived = [\"2 x b: hex 0102\"]");
        assert_eq!(failures(&right), Vec::<String>::new());
        assert_eq!(
            failures(&format!("{right}\nmaps = {{ \"o.m[3]\" = 3 }}\nevents = []")),
            Vec::<String>::new()
        );
        assert_eq!(
            failures(send),
            ["a.sent moved by 1, which nobody claimed", "received \"2 x b: 0102\", which nobody expected"]
        );
        let wrong = format!("{send}\ncounters = {{ \"a.sent\" = 2, \"a.x\" = 1 }}\nreceived = [\"3 x b\"]");
        assert_eq!(failures(&wrong).len(), 3);
        assert_eq!(failures(&format!("{right}\nmaps = {{ \"o.m[3]\" = 4 }}")), ["o.m[3] is 3, not 4"]);
        assert_eq!(failures("up = { a = true }\nrefused = \"EINVAL\""), Vec::<String>::new());
        assert_eq!(failures("up = { a = true }").len(), 1);
    }

    #[test]
    fn homes_are_compared_step_by_step() {
        let step = StepReport {
            line: 3,
            answer: Ok(()),
            moved: Counters::from([("a.x".to_owned(), 1), ("drop.y".to_owned(), 1)]),
            received: Vec::new(),
            events: Vec::new(),
            failures: Vec::new(),
            state: Counters::new(),
        };
        let a = SceneReport { home: "engine", steps: vec![step.clone()] };
        let mut b = SceneReport { home: "kernel", steps: vec![step] };
        b.steps[0].moved.remove("drop.y");
        assert_eq!(differences(&a, &b), Vec::<String>::new());
        b.steps[0].moved.insert("a.x".to_owned(), 2);
        assert_eq!(differences(&a, &b), ["line 3: counters: engine [\"a.x=1\"], kernel [\"a.x=2\"]"]);
    }
}
