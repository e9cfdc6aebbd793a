//! Many faults against many probes: which fault matches a packet of which probe.
//!
//! The faults count what they match and strike nothing (`nth` far beyond), so that one packet meets them all.
//! That what matches is lost is shown elsewhere.

use std::collections::BTreeMap;

use crate::scene::Scene;
use crate::support::Experiment;

/// A fault, and the probes of which it must mean a packet: exactly one (or that one sent again), or with `*` at
/// least one. Of all other probes it must mean none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) direction: &'static str,
    /// Keys of its `match`.
    pub(crate) keys: &'static str,
    /// Names of probes, parted by spaces.
    pub(crate) hits: &'static str,
}

/// A running experiment of such faults.
#[derive(Debug)]
pub(crate) struct Matrix<'a> {
    scene: &'a Scene,
    experiment: Experiment,
    rows: Vec<Row>,
    before: Vec<u64>,
    wrong: Vec<String>,
    met: BTreeMap<String, bool>,
}

impl<'a> Matrix<'a> {
    /// Applies the faults to the scene's cgroup; `rest` is added to the scenario.
    pub(crate) fn new(scene: &'a Scene, rows: Vec<Row>, rest: &str) -> Self {
        let fault = |(n, Row { direction, keys, .. }): (usize, &Row)| {
            format!(
                "id = \"{n}\"\nkind = \"network.loss\"\ndirection = \"{direction}\"\nnth = \"1000000\"\n\
                 match = {{ {keys} }}"
            )
        };
        let faults: Vec<String> = rows.iter().enumerate().map(fault).collect();
        let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
        let experiment = Experiment::apply(&(scene.scenario(1, &faults) + rest));
        let names = rows.iter().flat_map(|row| row.hits.split_whitespace());
        let met = names.map(|name| (name.trim_end_matches('*').to_owned(), false)).collect();
        let before = vec![0; rows.len()];
        let mut matrix = Self { scene, experiment, rows, before, wrong: Vec::new(), met };
        matrix.before = matrix.matched();
        matrix
    }

    fn matched(&self) -> Vec<u64> {
        let report = self.experiment.live();
        (0..self.rows.len()).map(|row| report.fault(&row.to_string()).matched).collect()
    }

    /// How many TCP segments both sides have sent again.
    fn resent(&self) -> u64 {
        let pair = &self.scene.pair;
        [&pair.client, &pair.server].map(|netns| netns.counter("TcpRetransSegs")).iter().sum()
    }

    /// Sends a probe and looks at every fault.
    pub(crate) fn probe(&mut self, name: &str, send: impl FnOnce()) {
        let resent = self.resent();
        send();
        let after = self.matched();
        // A slow machine may send a segment again that has arrived: then there are two of them to match.
        let once = if self.resent() == resent { 1..=1 } else { 1..=u64::MAX };
        for ((row, after), before) in self.rows.iter().zip(&after).zip(&self.before) {
            let mut hits = row.hits.split_whitespace();
            let wanted = hits.find(|hit| hit.trim_end_matches('*') == name);
            let seen = after - before;
            let right = match wanted {
                Some(hit) if hit.ends_with('*') => seen > 0,
                Some(_) => once.contains(&seen),
                None => seen == 0,
            };
            if !right {
                self.wrong.push(format!("{} {{ {} }} matched {seen} of {name}", row.direction, row.keys));
            }
        }
        self.before = after;
        self.met.insert(name.to_owned(), true);
    }

    /// Fails if a fault matched what it should not, or did not match what it should.
    #[track_caller]
    pub(crate) fn finish(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        let unmet: Vec<&String> = self.met.iter().filter(|(_, met)| !**met).map(|(name, _)| name).collect();
        assert!(unmet.is_empty(), "no such probe: {unmet:?}");
        let report = self.experiment.end();
        for row in 0..self.rows.len() {
            assert_eq!(report.fault(&row.to_string()).injected, 0);
        }
    }
}
