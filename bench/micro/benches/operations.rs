//! `cargo bench -p micro` times every operation; `cargo bench -p micro -- --test` does each once.

use divan::Bencher;
use micro::{Operation, operations};

fn main() {
    divan::main();
}

#[divan::bench(args = operations())]
fn operation(bencher: Bencher<'_, '_>, operation: &Operation) {
    bencher.bench_local(operation.prepare());
}
