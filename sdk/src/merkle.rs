//! OpenZeppelin's `StandardMerkleTree` (sorted leaves, sorted pairs), so that `@openzeppelin/merkle-tree` and
//! `MerkleProof.sol` verify every proof made here.

use alloy::primitives::{B256, keccak256};
use rayon::prelude::*;

/// A whole tree: 2n − 1 nodes, root first, leaves descending at the end, as OpenZeppelin lays it out.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<B256>,
    /// For each input leaf, its place in `nodes`.
    places: Vec<u32>,
}

/// Hash of an inner node: keccak256 of the two children, the smaller first.
pub fn parent(a: B256, b: B256) -> B256 {
    let mut pair = [0u8; 64];
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    pair[..32].copy_from_slice(low.as_slice());
    pair[32..].copy_from_slice(high.as_slice());
    keccak256(pair)
}

impl Tree {
    /// Builds the tree over leaves in any order; `None` for no leaves or more than 2^31.
    pub fn new(leaves: &[B256]) -> Option<Self> {
        let count_u32 = u32::try_from(leaves.len()).ok().filter(|count| (1..=1 << 31).contains(count))?;
        let count = leaves.len();
        let order = ascending(leaves, count_u32);
        let total = 2 * count - 1;
        let mut nodes = vec![B256::ZERO; total];
        let mut places = vec![0u32; count];
        let mut place = count_u32 - 1;
        let mut descending = &mut nodes[count - 1..];
        let mut parts = Vec::with_capacity(order.len());
        for part in order.iter().rev() {
            let (nodes, rest) = descending.split_at_mut(part.len());
            parts.push((nodes, part));
            descending = rest;
            for (_, leaf) in part.iter().rev() {
                places[*leaf as usize] = place;
                place += 1;
            }
        }
        parts.into_par_iter().for_each(|(nodes, part)| {
            for (node, (_, leaf)) in nodes.iter_mut().zip(part.iter().rev()) {
                *node = leaves[*leaf as usize];
            }
        });
        drop(order);
        // a level at a time, so that a level's hashes are independent
        let mut end = count - 1;
        while end > 0 {
            // node i has its children at 2i + 1 and 2i + 2: all of start..end have both at or after end
            let start = end / 2;
            let (open, done) = nodes.split_at_mut(end);
            open[start..].par_iter_mut().with_min_len(256).enumerate().for_each(|(offset, node)| {
                let left = 2 * (start + offset) + 1 - end;
                *node = parent(done[left], done[left + 1]);
            });
            end = start;
        }
        Some(Self { nodes, places })
    }

    /// The root.
    pub fn root(&self) -> B256 {
        self.nodes[0]
    }

    /// All nodes, root first.
    pub fn nodes(&self) -> &[B256] {
        &self.nodes
    }

    /// For each input leaf, which of the nodes it is.
    pub fn places(&self) -> &[u32] {
        &self.places
    }

    /// Sibling hashes from the leaf at `index` of the input up to the root; `None` past the end.
    pub fn proof(&self, index: usize) -> Option<Vec<B256>> {
        let place = *self.places.get(index)? as usize;
        Some(siblings(place).into_iter().map(|sibling| self.nodes[sibling]).collect())
    }
}

/// A leaf's beginning, which tells it from almost all others, and which of the input it is.
type Leaf = (u64, u32);

/// Leaves of which one core takes the beginnings at once; about as many it sorts at once, as they stay in its cache.
const LEAVES_AT_ONCE: usize = 16_384;

/// Leaves in ascending order, in parts one after another.
fn ascending(leaves: &[B256], count: u32) -> Vec<Vec<Leaf>> {
    // by the first byte, of which there are 256
    let parts_count = leaves.len().div_ceil(LEAVES_AT_ONCE).min(256);
    let split: Vec<Vec<Vec<Leaf>>> = leaves
        .par_chunks(LEAVES_AT_ONCE)
        .zip((0..count).into_par_iter().step_by(LEAVES_AT_ONCE))
        .map(|(leaves, from)| {
            let part = || Vec::with_capacity(leaves.len() / parts_count * 5 / 4);
            let mut parts: Vec<_> = std::iter::repeat_with(part).take(parts_count).collect();
            for (number, leaf) in (from..).zip(leaves) {
                let beginning = leaf.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                parts[usize::from(leaf[0]) * parts_count / 256].push((beginning, number));
            }
            parts
        })
        .collect();
    let sorted = (0..parts_count).into_par_iter().map(|part| {
        let mut part = split.iter().map(|parts| parts[part].as_slice()).collect::<Vec<_>>().concat();
        part.sort_unstable_by(|(a, i), (b, j)| a.cmp(b).then_with(|| leaves[*i as usize].cmp(&leaves[*j as usize])));
        part
    });
    sorted.collect()
}

/// The places of a proof's nodes, from the sibling of the node at `place` up to a child of the root.
pub fn siblings(mut place: usize) -> Vec<usize> {
    let mut places = Vec::new();
    while place > 0 {
        places.push(if place.is_multiple_of(2) { place - 1 } else { place + 1 });
        place = (place - 1) / 2;
    }
    places
}

/// The root that a leaf and its proof lead to.
pub fn root_from_proof(leaf: B256, proof: &[B256]) -> B256 {
    proof.iter().fold(leaf, |node, &sibling| parent(node, sibling))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, node by node, as OpenZeppelin's `makeMerkleTree` has it.
    fn reference_root(leaves: &[B256]) -> B256 {
        let mut sorted = leaves.to_vec();
        sorted.sort();
        let total = 2 * sorted.len() - 1;
        let mut nodes = vec![B256::ZERO; total];
        for (i, leaf) in sorted.iter().enumerate() {
            nodes[total - 1 - i] = *leaf;
        }
        for i in (0..total - sorted.len()).rev() {
            nodes[i] = parent(nodes[2 * i + 1], nodes[2 * i + 2]);
        }
        nodes[0]
    }

    #[test]
    fn levels_in_parallel_give_the_definition_s_root_and_every_proof_leads_to_it() {
        for count in [1usize, 2, 3, 4, 5, 7, 8, 9, 31, 64, 100, 1000, 1025] {
            let leaves: Vec<B256> = (0..count).map(|i| keccak256((i as u64).to_be_bytes())).collect();
            let tree = Tree::new(&leaves).unwrap();
            assert_eq!(tree.root(), reference_root(&leaves), "{count} leaves");
            for (i, leaf) in leaves.iter().enumerate() {
                assert_eq!(root_from_proof(*leaf, &tree.proof(i).unwrap()), tree.root());
            }
            assert!(tree.proof(count).is_none());
        }
        assert!(Tree::new(&[]).is_none());
    }

    #[test]
    fn a_tree_that_is_sorted_in_parts_has_the_definition_s_root_too() {
        let mut leaves: Vec<B256> = (0..3 * LEAVES_AT_ONCE as u64).map(|i| keccak256(i.to_be_bytes())).collect();
        // some alike, some with one beginning
        for i in 0..1_000 {
            leaves[i + 1_000] = leaves[i];
            let beginning: [u8; 8] = leaves[i][..8].try_into().unwrap();
            leaves[2 * LEAVES_AT_ONCE + i][..8].copy_from_slice(&beginning);
        }
        for count in [LEAVES_AT_ONCE, LEAVES_AT_ONCE + 1, leaves.len()] {
            let leaves = &leaves[..count];
            let tree = Tree::new(leaves).unwrap();
            assert_eq!(tree.root(), reference_root(leaves));
            for i in (0..count).step_by(97) {
                assert_eq!(root_from_proof(leaves[i], &tree.proof(i).unwrap()), tree.root());
            }
        }
    }
}
