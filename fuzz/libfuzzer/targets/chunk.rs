#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chargeplane_fuzz::chunk(data));
