//! [`Pair`]: one object in two homes, given the same packets and map changes, compared after each.
//!
//! The first home answers clocks and random numbers and the second follows its script, so everything that a
//! program can see is the same; what differs is a fault of one of them. A difference is a sentence.

use bpf::object::ObjectSpec;
use control::{Backend, LoadError, LoadOptions, Loaded, OutputEvent, TestRun, TestRunError, TestRunOutput};
use uapi::Errno;
use uapi::bpf::MapType;

use crate::generate::MapChange;

/// Elements of a map that are looked at, most.
const ELEMENTS_MAX: usize = 200_000;

/// One object in two homes.
pub struct Pair {
    first: Box<dyn Loaded>,
    second: Box<dyn Loaded>,
    names: [&'static str; 2],
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// In words.
    pub what: String,
    /// For values of maps: position of the map, and the first byte that differs.
    pub place: Option<(usize, usize)>,
}

impl From<String> for Difference {
    fn from(what: String) -> Self {
        Self { what, place: None }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

/// The homes differ in what they load.
#[derive(Clone, Debug)]
pub enum PairError {
    /// Both refuse the object.
    Both(Box<[LoadError; 2]>),
    /// Only the home of this name does.
    One(&'static str, Box<LoadError>),
}

impl Pair {
    /// Loads an object into both homes.
    ///
    /// # Errors
    ///
    /// Who refuses it, and why.
    pub fn load(
        homes: [&mut dyn Backend; 2],
        spec: &ObjectSpec,
        options: &LoadOptions,
    ) -> Result<Self, PairError> {
        let names = [homes[0].name(), homes[1].name()];
        let [first, second] = homes.map(|home| home.load(spec, options));
        match (first, second) {
            (Ok(first), Ok(second)) => Ok(Self { first, second, names }),
            (Err(e), Ok(_)) => Err(PairError::One(names[0], Box::new(e))),
            (Ok(_), Err(e)) => Err(PairError::One(names[1], Box::new(e))),
            (Err(a), Err(b)) => Err(PairError::Both(Box::new([a, b]))),
        }
    }

    /// What the homes want a user to know of the load.
    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        self.first.warnings().iter().chain(self.second.warnings())
    }

    /// Runs a packet in both.
    ///
    /// # Errors
    ///
    /// What differs.
    pub fn run(&mut self, program: &str, request: &TestRun) -> Result<Option<TestRunOutput>, Difference> {
        let ours = self.first.test_run(program, request);
        let mut request = request.clone();
        if let Ok(output) = &ours {
            request.script.clone_from(&output.scripted);
        }
        let theirs = self.second.test_run(program, &request);
        let events = [self.first.take_events(), self.second.take_events()].map(by_ring);
        let difference = outputs(&ours, &theirs).or_else(|| events_differ(&events[0], &events[1]));
        match difference {
            Some(what) => Err(format!("{} and {} differ: {what}", self.names[0], self.names[1]).into()),
            None => Ok(ours.ok()),
        }
    }

    /// Changes a map in both.
    ///
    /// # Errors
    ///
    /// Different answers.
    pub fn change(&self, change: &MapChange) -> Result<(), Difference> {
        let apply = |home: &dyn Loaded| match change {
            MapChange::Update { map, key, value, flags } => home.map_update(*map, key, value, *flags),
            MapChange::Delete { map, key } => home.map_delete(*map, key),
        };
        let (ours, theirs) = (apply(self.first.as_ref()), apply(self.second.as_ref()));
        if ours == theirs {
            return Ok(());
        }
        let [a, b] = self.names;
        let (MapChange::Update { map, .. } | MapChange::Delete { map, .. }) = change;
        let name = &self.first.maps()[*map].name;
        Err(format!("map {name}: {a} says {ours:?}, {b} says {theirs:?} to {change:x?}").into())
    }

    /// Compares what all maps hold.
    ///
    /// # Errors
    ///
    /// The first difference.
    pub fn compare_maps(&self) -> Result<(), Difference> {
        // The last ones first: what random programs trace is among them, and says most.
        (0..self.first.maps().len()).rev().try_for_each(|map| self.compare_map(map))
    }

    fn compare_map(&self, map: usize) -> Result<(), Difference> {
        let info = &self.first.maps()[map];
        let [ours, theirs] =
            [&self.first, &self.second].map(|home| elements(home.as_ref(), map, info.def.map_type));
        let absent: Answer = Err(Errno::ENOENT);
        for (key, value) in &ours {
            let other = theirs.binary_search_by(|(k, _)| k.cmp(key)).ok().map_or(&absent, |i| &theirs[i].1);
            if value != other {
                return Err(self.value_differs(map, key, value, other));
            }
        }
        for (key, value) in &theirs {
            if ours.binary_search_by(|(k, _)| k.cmp(key)).is_err() {
                return Err(self.value_differs(map, key, &absent, value));
            }
        }
        Ok(())
    }

    fn value_differs(&self, map: usize, key: &[u8], ours: &Answer, theirs: &Answer) -> Difference {
        let [a, b] = self.names;
        let name = &self.first.maps()[map].name;
        let (Ok(x), Ok(y)) = (ours, theirs) else {
            let show =
                |answer: &Answer| answer.as_ref().map(|v| format!("{v:02x?}")).map_err(Errno::to_string);
            let (x, y) = (show(ours), show(theirs));
            return format!("map {name}[{key:02x?}]: {a} has {x:?}, {b} has {y:?}").into();
        };
        let at = x.iter().zip(y).position(|(x, y)| x != y).unwrap_or(x.len().min(y.len())) & !7;
        let near = |v: &[u8]| format!("{:02x?}", &v[at..v.len().min(at + 8)]);
        let what = format!("map {name}[{key:02x?}] from byte {at}: {a} has {}, {b} has {}", near(x), near(y));
        Difference { what, place: Some((map, at)) }
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pair({} and {})", self.names[0], self.names[1])
    }
}

type Ran = Result<TestRunOutput, TestRunError>;
type Answer = Result<Vec<u8>, Errno>;

/// What two runs of a packet have different.
fn outputs(ours: &Ran, theirs: &Ran) -> Option<String> {
    let (x, y) = match (ours, theirs) {
        (Ok(x), Ok(y)) => (x, y),
        (Err(x), Err(y)) if x.errno == y.errno => return None,
        _ => {
            let show = |r: &Ran| r.as_ref().map(|o| o.retval).map_err(|e| e.to_string());
            return Some(format!("{:?} and {:?}", show(ours), show(theirs)));
        }
    };
    if x.retval != y.retval {
        return Some(format!("verdict {} and {}", x.retval, y.retval));
    }
    if x.ctx != y.ctx {
        return Some(format!("context {:?} and {:?}", x.ctx, y.ctx));
    }
    if x.data != y.data {
        let at = x.data.iter().zip(&y.data).position(|(a, b)| a != b);
        let at = at.unwrap_or(x.data.len().min(y.data.len()));
        let near = |d: &[u8]| format!("{} bytes, {:02x?}", d.len(), &d[at..d.len().min(at + 8)]);
        return Some(format!("data from byte {at}: {} and {}", near(&x.data), near(&y.data)));
    }
    (y.off_script > 0).then(|| {
        let at = y.scripted.len() as u64 - y.off_script.min(y.scripted.len() as u64);
        format!("calls: {:?} and {:?} from call {at} on", x.scripted, y.scripted)
    })
}

/// Events without trace lines, which the kernel's are not read; the order between rings has no meaning.
fn by_ring(mut events: Vec<OutputEvent>) -> Vec<OutputEvent> {
    events.retain(|e| !matches!(e, OutputEvent::Trace(_)));
    events.sort_by_key(|e| match e {
        OutputEvent::Ringbuf { map, .. } => (*map, 0),
        OutputEvent::Perf { map, cpu, .. } | OutputEvent::Lost { map, cpu, .. } => (*map, *cpu),
        OutputEvent::Trace(_) => (0, 0),
    });
    events
}

fn events_differ(ours: &[OutputEvent], theirs: &[OutputEvent]) -> Option<String> {
    let agree = ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| a.agrees(b));
    (!agree).then(|| format!("events {ours:x?} and {theirs:x?}"))
}

/// All elements of a map that both homes can show, sorted by key.
fn elements(home: &dyn Loaded, map: usize, map_type: MapType) -> Vec<(Vec<u8>, Answer)> {
    use MapType::*;
    match map_type {
        // There is only the next one to see.
        Queue | Stack => return vec![(Vec::new(), home.map_lookup(map, &[]))],
        BloomFilter | Ringbuf | UserRingbuf | PerfEventArray => return Vec::new(),
        _ => {}
    }
    let mut found = Vec::new();
    let mut key = home.map_next_key(map, None);
    while let Ok(k) = key {
        let value = home.map_lookup(map, &k).map(|v| comparable(map_type, v));
        // An array of maps or devices has keys without anything under them.
        if value != Err(Errno::ENOENT) {
            found.push((k.clone(), value));
        }
        if found.len() >= ELEMENTS_MAX {
            break;
        }
        key = home.map_next_key(map, Some(&k));
    }
    found.sort();
    found
}

/// The part of a value that means the same in both homes: numbers of programs and maps do not.
fn comparable(map_type: MapType, mut value: Vec<u8>) -> Vec<u8> {
    match map_type {
        MapType::ProgArray | MapType::ArrayOfMaps | MapType::HashOfMaps => value.clear(),
        MapType::Devmap | MapType::DevmapHash | MapType::Cpumap => value.truncate(4),
        _ => {}
    }
    value
}
