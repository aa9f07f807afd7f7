//! How many bits each matrix gets.

use super::{
    Profile, Tier,
    profile::{Kind, narrower, wider},
};

/// A published tensor that is to be quantized.
#[derive(Clone, Debug)]
pub(super) struct Item<'a> {
    /// Its published name.
    pub name: &'a str,
    /// How many groups of values it has.
    pub blocks: u64,
}

/// What allocation wants to know of a model.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traits {
    /// Routed experts, or 0.
    pub experts: u64,
    /// Whether its experts square what `up_proj` gives, without a gate.
    pub is_gateless: bool,
}

/// From so many experts on, some of their matrices have a least width.
const MANY_EXPERTS: u64 = 256;

/// Least widths of routed experts where there are many: what feeds a gate's nonlinearity, and what adds to the residual. The first
/// part that a name contains decides.
const MANY_FLOORS: [(&str, u8); 5] =
    [("gate_proj", 4), ("gate_up_proj", 4), ("w1", 4), ("down_proj", 3), ("w2", 3)];

/// The same of experts without a gate, however many.
const GATELESS_FLOORS: [(&str, u8); 2] = [("up_proj", 4), ("down_proj", 3)];

/// Matrices of experts.
const EXPERT: [&str; 7] = ["gate_up_proj", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"];

/// Of so small a part of a model, the critical matrices may take four steps more; else two.
const SMALL_PART: f64 = 0.05;

/// The width of each of `items`, in their order.
pub(super) fn allocate(profile: Profile, model: Traits, items: &[Item]) -> Vec<u8> {
    match profile.kind {
        Kind::Budget(base) => in_budget(base, model, items),
        tiers => items.iter().map(|item| in_tiers(tiers, model, item.name)).collect(),
    }
}

fn in_tiers(widths: Kind, model: Traits, name: &str) -> u8 {
    let bits = widths.of_tier(Tier::of(name, model.experts)).unwrap_or_default();
    let name = name.to_lowercase();
    let bits = bits.max(floor(&name, model.experts, 0));
    if !model.is_gateless {
        return bits;
    }
    let is_expert = name.contains("experts") && !name.contains("shared_expert");
    let least = GATELESS_FLOORS.iter().find(|(part, _)| is_expert && name.contains(part)).map_or(0, |f| f.1);
    // Convolutions stay floats, but count as critical.
    let least = if name.contains("conv1d") { widths.of_tier(Tier::Critical).unwrap_or(least) } else { least };
    bits.max(least)
}

/// The least width of a matrix where there are many experts, `name` in lower case. Where all matrices begin with a `base` of 4 bits or
/// more, no expert has less.
fn floor(name: &str, experts: u64, base: u8) -> u8 {
    if experts < MANY_EXPERTS || name.contains("shared_expert") {
        return 0;
    }
    if base >= 4 && EXPERT.iter().any(|part| name.contains(part)) {
        return base;
    }
    MANY_FLOORS.iter().find(|(part, _)| name.contains(part)).map_or(0, |(_, least)| *least)
}

/// All begin with `base`. Critical matrices and those of the outer layers get more, which the smallest of the others pay for.
fn in_budget(base: u8, model: Traits, items: &[Item]) -> Vec<u8> {
    let tiers: Vec<Tier> = items.iter().map(|item| Tier::of(item.name, model.experts)).collect();
    let is = |wanted: Tier| move |(_, tier): &(&Item, &Tier)| **tier == wanted;
    let blocks: u64 = items.iter().map(|item| item.blocks).sum();
    let critical: u64 =
        items.iter().zip(&tiers).filter(is(Tier::Critical)).map(|(item, _)| item.blocks).sum();
    let steps = if (critical as f64 / blocks.max(1) as f64) < SMALL_PART { 4 } else { 2 };
    let raised = (0..steps).fold(base, |bits, _| wider(bits).unwrap_or(bits));
    let mut widths: Vec<u8> =
        tiers.iter().map(|tier| if *tier == Tier::Critical { raised } else { base }).collect();

    let layers: Vec<Option<u64>> = items.iter().map(|item| layer(item.name)).collect();
    let count = layers.iter().flatten().max().map_or(1, |last| last + 1);
    for ((item, layer), bits) in items.iter().zip(&layers).zip(&mut widths) {
        let is_outer = layer.is_some_and(|layer| layer < 2 || layer + 2 >= count);
        if is_outer && !(base == 2 && is_routed(item.name)) {
            *bits = wider(*bits).unwrap_or(*bits);
        }
    }

    let spent: u64 = items.iter().zip(&widths).map(|(item, bits)| u64::from(*bits) * item.blocks).sum();
    let mut owed = spent.saturating_sub(u64::from(base) * blocks);
    let Some(less) = narrower(base) else { return widths };
    let mut payers: Vec<usize> = (0..items.len()).filter(|i| tiers[*i] == Tier::Compress).collect();
    payers.sort_by_key(|i| items[*i].blocks);
    for i in payers {
        if owed == 0 {
            break;
        }
        if floor(&items[i].name.to_lowercase(), model.experts, base) <= less {
            // What an outer layer got besides is not counted, as the format has it.
            owed = owed.saturating_sub(u64::from(base - less) * items[i].blocks);
            widths[i] = less;
        }
    }
    widths
}

/// Whether this is a matrix of a routed expert.
fn is_routed(name: &str) -> bool {
    let name = name.to_lowercase();
    name.contains("expert")
        && !name.contains("shared_expert")
        && EXPERT.iter().any(|part| name.contains(part))
}

/// The number of the layer that a tensor belongs to.
fn layer(name: &str) -> Option<u64> {
    let mut parts = name.split('.');
    parts.find(|part| *part == "layers")?;
    parts.next()?.parse().ok().filter(|layer| *layer < 1 << 32)
}
