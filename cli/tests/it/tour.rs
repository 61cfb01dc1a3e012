use crate::stage::run;

#[test]
fn every_step_of_the_tour_is_seen_to_work() {
    let lines = run(&["tour"]).ok();
    let steps: Vec<_> = lines.iter().filter(|line| line.contains("✓")).collect();
    assert_eq!(steps.len(), 15, "{lines:#?}");
    assert!(lines.last().unwrap().starts_with("All 15 steps were seen to work"), "{lines:#?}");
    // No terminal, no colours.
    assert!(lines.iter().all(|line| !line.contains('\x1b')), "{lines:#?}");
}
