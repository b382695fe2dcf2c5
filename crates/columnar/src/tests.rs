use super::*;
use arrow_array::cast::AsArray;
use arrow_ipc::reader::StreamReader;
use chargeplane_domain::sample::Sample;
use chargeplane_domain::units::{Timestamp, WattHours, Watts};

fn readings(of: std::ops::Range<u64>) -> Vec<Reading> {
    let one = |number: u64| {
        let n = i32::try_from(number).expect("small");
        let sample = Sample {
            at: Timestamp(1_767_600_000_000 + i64::from(n) * 100),
            voltage_dv: 4_000 + n,
            current_da: -n,
            temperature_dc: 250,
            soc_permille: n % 1_000,
            power: Watts(i64::from(n) * 7),
            register: WattHours(i64::from(n) * 3),
        };
        Reading { incarnation: 3, number, sample }
    };
    of.map(one).collect()
}

fn file(format: Format) -> Vec<u8> {
    let mut writer = ColumnarWriter::new(format).expect("begins");
    let mut file = writer.write("main/c1", &readings(0..300)).expect("writes");
    file.extend(writer.write("main/c1", &[]).expect("writes nothing"));
    file.extend(writer.write("main/c2", &readings(300..500)).expect("writes"));
    file.extend(writer.finish().expect("ends"));
    file
}

#[test]
fn an_arrow_stream_reads_back() {
    let file = file(Format::ArrowStream);
    let reader = StreamReader::try_new(&file[..], None).expect("a stream");
    assert_eq!(reader.schema().field(9).name(), "register_wh");
    let batches: Vec<_> = reader.map(|batch| batch.expect("a batch")).collect();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [300, 200]);
    assert_eq!(batches[1].column(0).as_string::<i32>().value(0), "main/c2");
    assert_eq!(batches[1].column(2).as_primitive::<UInt64Type>().value(199), 499);
    assert_eq!(batches[0].column(5).as_primitive::<Int32Type>().value(7), -7);
    let at = batches[0].column(3).as_primitive::<TimestampMillisecondType>();
    assert_eq!(at.value(2), 1_767_600_000_200);
}

#[test]
fn a_file_of_nothing_is_a_file() {
    let bytes = ColumnarWriter::new(Format::ArrowStream).expect("begins").finish().expect("ends");
    assert_eq!(StreamReader::try_new(&bytes[..], None).expect("a stream").count(), 0);
}
