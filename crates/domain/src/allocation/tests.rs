//! Examples. Properties on random problems are in [`properties`].

mod crossing;
mod oracle;
mod properties;
mod random;

use super::*;
use crate::catalogue::LimitNode;

fn limit(id: &str, parent: Option<&str>, watts: i64) -> LimitNode {
    LimitNode { id: id.into(), parent: parent.map(Into::into), limit_w: Watts(watts), base_w: Watts::ZERO }
}

fn node(parent: Option<u32>, limit: i64, base: i64) -> Node {
    Node { parent, limit: Watts(limit), base: Watts(base), ..Node::default() }
}

fn leaf(id: u32, node: u32, min: i64, max: i64) -> Leaf {
    Leaf {
        id,
        node,
        min: Watts(min),
        max: Watts(max),
        step: Watts(100),
        weight: 100,
        prev: Watts::ZERO,
        reserve: Watts::ZERO,
        standing: Standing::Waiting,
        since: u64::from(id),
        ..Leaf::default()
    }
}

fn watts(allocation: &Allocation) -> Vec<i64> {
    allocation.watts.iter().map(|w| w.0).collect()
}

#[test]
fn equal_cars_share_equally_and_a_small_one_leaves_its_rest() {
    let leaves = vec![leaf(0, 0, 1_000, 50_000), leaf(1, 0, 1_000, 50_000), leaf(2, 0, 1_000, 4_000)];
    let problem = Problem::new(vec![node(None, 30_000, 0)], leaves).unwrap();
    assert_eq!(watts(&water_fill(&problem)), [13_000, 13_000, 4_000]);
}

#[test]
fn weights_divide_what_a_cabinet_has() {
    let mut leaves = vec![leaf(0, 1, 0, 90_000), leaf(1, 1, 0, 90_000), leaf(2, 0, 0, 90_000)];
    leaves[1].weight = 200;
    let problem = Problem::new(vec![node(None, 100_000, 10_000), node(Some(0), 30_000, 0)], leaves).unwrap();
    assert_eq!(watts(&water_fill(&problem)), [10_000, 20_000, 60_000]);
}

#[test]
fn left_over_steps_are_handed_out() {
    let leaves = (0..3).map(|id| leaf(id, 0, 0, 50_000)).collect();
    let problem = Problem::new(vec![node(None, 1_000, 0)], leaves).unwrap();
    assert_eq!(watts(&water_fill(&problem)), [400, 300, 300]);
}

#[test]
fn admission_keeps_who_is_on_then_the_starved_then_by_arrival() {
    let mut leaves: Vec<Leaf> = (0..5).map(|id| leaf(id, 0, 10_000, 20_000)).collect();
    leaves[4].standing = Standing::Kept;
    leaves[3].standing = Standing::Starved;
    leaves[2].standing = Standing::Running;
    let problem = Problem::new(vec![node(None, 35_000, 0)], leaves.clone()).unwrap();
    assert_eq!(watts(&water_fill(&problem)), [0, 0, 11_700, 11_700, 11_600]);
    let problem = Problem::new(vec![node(None, 25_000, 0)], leaves).unwrap();
    assert_eq!(watts(&water_fill(&problem)), [0, 0, 0, 12_500, 12_500]);
}

#[test]
fn reserves_of_those_who_are_off_are_kept_free() {
    let mut leaves = vec![leaf(0, 0, 10_000, 20_000), leaf(1, 0, 10_000, 20_000)];
    leaves[0].reserve = Watts(6_000);
    leaves[1].reserve = Watts(6_000);
    let problem = Problem::new(vec![node(None, 18_000, 0)], leaves).unwrap();
    assert_eq!(watts(&water_fill(&problem)), [12_000, 0]);
}

#[test]
fn nobody_is_on_below_a_node_that_is_over_its_limit_already() {
    let nodes = vec![node(None, 50_000, 0), node(Some(0), 5_000, 6_000)];
    let problem = Problem::new(nodes, vec![leaf(0, 1, 0, 9_000), leaf(1, 0, 0, 90_000)]).unwrap();
    let answer = water_fill(&problem);
    assert_eq!(watts(&answer), [0, 44_000]);
    assert_eq!(check(&problem, &answer), Ok(()));
}

#[test]
fn bad_trees_name_the_node() {
    let path = |limits: &[LimitNode]| Tree::build(limits).unwrap_err().to_string();
    let grid = limit("grid", None, 100);
    assert_eq!(Tree::build(&[]), Err(TreeError::NoRoot));
    assert!(path(&[grid.clone(), limit("b", None, 1)]).contains("\"grid\" and \"b\""));
    assert!(path(&[grid.clone(), limit("t", Some("gird"), 1)]).contains("\"t\" has parent \"gird\""));
    assert!(path(&[grid.clone(), grid.clone()]).contains("\"grid\" is listed twice"));
    let around = [grid.clone(), limit("a", Some("b"), 1), limit("b", Some("a"), 1), limit("c", Some("b"), 1)];
    assert!(path(&around).contains("its own ancestor"), "{}", path(&around));
    assert!(matches!(Tree::build(&around), Err(TreeError::Cycle { path }) if path == "a/b/a"));
    assert!(matches!(Tree::build(&around[1..]), Err(TreeError::Cycle { .. })));
    let below = [grid.clone(), limit("t", Some("grid"), 100), limit("f", Some("t"), -1)];
    assert!(matches!(Tree::build(&below), Err(TreeError::BadLimit { path, .. }) if path == "grid/t/f"));
    let wide = [grid.clone(), limit("t", Some("grid"), 100), limit("f", Some("t"), 101)];
    assert!(
        matches!(Tree::build(&wide).unwrap().check_written(), Err(TreeError::OverParent { path, .. }) if path == "grid/t/f")
    );
    let mut heavy = grid;
    heavy.base_w = Watts(101);
    assert!(matches!(Tree::build(&[heavy]), Err(TreeError::BaseOverLimit { path, .. }) if path == "grid"));
}

#[test]
fn a_tree_is_laid_out_in_preorder_whatever_the_list_says() {
    let limits = [
        limit("c2", Some("t2"), 1),
        limit("t1", Some("grid"), 1),
        limit("c1", Some("t1"), 1),
        limit("grid", None, 1),
        limit("t2", Some("grid"), 1),
    ];
    let tree = Tree::build(&limits).unwrap();
    let names: Vec<&str> = tree.nodes().iter().map(|node| node.id.as_str()).collect();
    assert_eq!(names, ["grid", "t1", "c1", "t2", "c2"]);
    assert_eq!(tree.path(4), "grid/t2/c2");
    assert_eq!(tree.nodes()[1].end, 3);
}

#[test]
fn bad_problems_are_refused() {
    let one = |leaf: Leaf| Problem::new(vec![node(None, 10, 0)], vec![leaf]).unwrap_err();
    assert!(matches!(one(leaf(0, 1, 0, 0)), TreeError::UnknownNode { .. }));
    assert!(matches!(one(leaf(0, 0, 2, 1)), TreeError::BadLeaf { .. }));
    assert!(matches!(one(Leaf { step: Watts(0), ..leaf(0, 0, 0, 1) }), TreeError::BadLeaf { .. }));
    assert!(matches!(one(Leaf { weight: 0, ..leaf(0, 0, 0, 1) }), TreeError::BadLeaf { .. }));
    let nodes = |parents: &[Option<u32>]| Problem::new(parents.iter().map(|p| node(*p, 1, 0)).collect(), Vec::new());
    assert_eq!(nodes(&[]), Err(TreeError::NoRoot));
    assert!(matches!(nodes(&[None, None]), Err(TreeError::TwoRoots { .. })));
    assert!(matches!(nodes(&[None, Some(1)]), Err(TreeError::Cycle { .. })));
    assert!(matches!(nodes(&[None, Some(9)]), Err(TreeError::MissingParent { .. })));
    // A subtree that was left may not be entered again.
    assert!(matches!(nodes(&[None, Some(0), Some(0), Some(1)]), Err(TreeError::Cycle { .. })));
}

#[test]
fn an_allocation_that_breaks_a_rule_is_seen() {
    let problem = Problem::new(vec![node(None, 10_000, 0)], vec![leaf(0, 0, 1_000, 5_000)]).unwrap();
    let seen =
        |watts: &[i64]| check(&problem, &Allocation { watts: watts.iter().map(|w| Watts(*w)).collect() }).unwrap_err();
    assert!(matches!(seen(&[])[0], Violation::Shape { .. }));
    assert!(matches!(seen(&[900])[0], Violation::OutOfBounds { .. }));
    assert!(matches!(seen(&[5_100])[0], Violation::OutOfBounds { .. }));
    assert!(matches!(seen(&[-100])[0], Violation::OutOfBounds { .. }));
    assert!(matches!(seen(&[1_050])[0], Violation::OffStep { .. }));
    let tight = Problem::new(vec![node(None, 2_000, 0)], vec![leaf(0, 0, 1_000, 5_000)]).unwrap();
    let over = Allocation { watts: vec![Watts(2_100)] };
    assert!(matches!(check(&tight, &over).unwrap_err()[0], Violation::OverLimit { node: 0, .. }));
}

#[test]
fn a_station_of_2000_is_filled_in_a_moment() {
    let mut nodes = vec![node(None, 60_000_000, 0)];
    let mut leaves = Vec::new();
    for transformer in 0..4 {
        let t = nodes.len() as u32;
        nodes.push(node(Some(0), 18_000_000 - 1_000_000 * transformer, 0));
        for cabinet in 0..50 {
            let c = nodes.len() as u32;
            nodes.push(node(Some(t), 280_000 + 5_000 * cabinet, 0));
            let first = leaves.len() as u32;
            leaves.extend((0..10).map(|at| leaf(first + at, c, 12_000, 20_000 + 977 * i64::from((c * 7 + at) % 100))));
        }
    }
    let problem = Problem::new(nodes, leaves).unwrap();
    let started = std::time::Instant::now();
    for _ in 0..20 {
        assert!(water_fill(&problem).total() > Watts(50_000_000));
    }
    println!("water-filling of 2,000: {:?} each", started.elapsed() / 20);
}
