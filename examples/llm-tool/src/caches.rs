//! What the layers of a model remember, in a few words.

use mlx_llm::common::cache::{Cache, LayerReport};

/// Layers that remember in the same way.
pub(crate) struct Group {
    pub(crate) layers: u64,
    pub(crate) report: LayerReport,
}

/// The layers of a cache, such together as remember in the same way and take as much room.
pub(crate) fn groups(cache: &Cache) -> Vec<Group> {
    let same = |a: &LayerReport, b: &LayerReport| {
        a.kind == b.kind && [0, 1].map(|n| a.bytes_at(n)) == [0, 1].map(|n| b.bytes_at(n))
    };
    grouped(cache.report(), same)
}

/// `5 layers: 1024 positions; 1 layer: all positions`.
pub(crate) fn in_words(cache: &Cache) -> String {
    let groups = grouped(cache.report(), |a, b| a.kind == b.kind);
    groups.iter().map(Group::in_words).collect::<Vec<_>>().join("; ")
}

fn grouped(reports: Vec<LayerReport>, same: impl Fn(&LayerReport, &LayerReport) -> bool) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for report in reports {
        match groups.iter_mut().find(|g| same(&g.report, &report)) {
            Some(group) => group.layers += 1,
            None => groups.push(Group { layers: 1, report }),
        }
    }
    groups
}

impl Group {
    fn in_words(&self) -> String {
        let s = if self.layers == 1 { "" } else { "s" };
        format!("{} layer{s}: {}", self.layers, self.report.kind)
    }

    /// Bytes that all of them take for each position, as long as they keep it.
    pub(crate) fn bytes_each(&self) -> u64 {
        self.layers * (self.report.bytes_at(1) - self.report.bytes_at(0))
    }

    /// Bytes that all of them take for a text of so many positions.
    pub(crate) fn bytes_at(&self, positions: u64) -> u64 {
        self.layers * self.report.bytes_at(positions)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use mlx_llm::common::cache::{CachePolicy, CacheSpec};

    #[test]
    fn layers_are_grouped() {
        let mut specs = vec![CacheSpec::Window(1024); 5];
        specs.insert(2, CacheSpec::Full);
        let of = |max_size| {
            in_words(&Cache::new(&specs, &CachePolicy { max_size, ..Default::default() }).unwrap())
        };
        assert_eq!(of(None), "5 layers: 1024 positions; 1 layer: all positions");
        assert_eq!(of(Some(2048)), "5 layers: 1024 positions; 1 layer: 2048 positions");
        assert_eq!(of(Some(1024)), "6 layers: 1024 positions");
    }
}
