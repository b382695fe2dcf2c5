use super::*;
use arrow_array::cast::AsArray;
use arrow_ipc::reader::StreamReader;
use chargeplane_domain::sample::Sample;
use chargeplane_domain::units::{Timestamp, WattHours, Watts};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field as Value;

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
fn a_parquet_file_reads_back() {
    let file = SerializedFileReader::new(bytes_of(file(Format::Parquet))).expect("a file");
    assert_eq!(file.metadata().file_metadata().num_rows(), 500);
    let rows: Vec<_> = file.get_row_iter(None).expect("rows").map(|row| row.expect("a row")).collect();
    let value = |row: usize, name: &str| {
        let found = rows[row].get_column_iter().find(|(column, _)| *column == name);
        found.map(|(_, value)| value.clone()).expect("a column")
    };
    assert_eq!(value(299, "charger"), Value::Str("main/c1".to_owned()));
    assert_eq!(value(300, "charger"), Value::Str("main/c2".to_owned()));
    assert_eq!(value(300, "at"), Value::TimestampMillis(1_767_600_030_000));
    assert_eq!(value(499, "power_w"), Value::Long(499 * 7));
    assert_eq!(value(499, "incarnation"), Value::UInt(3));
}

#[test]
fn a_file_of_nothing_is_a_file() {
    for format in [Format::ArrowStream, Format::Parquet] {
        let bytes = ColumnarWriter::new(format).expect("begins").finish().expect("ends");
        assert!(!bytes.is_empty());
        match format {
            Format::ArrowStream => assert_eq!(StreamReader::try_new(&bytes[..], None).expect("a stream").count(), 0),
            Format::Parquet => {
                let file = SerializedFileReader::new(bytes_of(bytes)).expect("a file");
                assert_eq!(file.metadata().file_metadata().num_rows(), 0);
            }
        }
    }
}

fn bytes_of(file: Vec<u8>) -> bytes::Bytes {
    file.into()
}
