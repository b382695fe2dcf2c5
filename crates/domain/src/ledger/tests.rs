use super::*;
use proptest::prelude::*;

const TEXTS: [&str; 7] = [
    "driver:main/a1",
    "energy:main/op1:CNY",
    "service:t2/op1:EUR",
    "fees:t2/op1:EUR",
    "top-up:main:CNY",
    "overshoot:main/op1:CNY",
    "rounding:main:CNY",
];

fn cny() -> Currency {
    Currency::new("CNY").unwrap()
}

fn post(account: &str, code: &str, amount: i64) -> Posting {
    Posting { account: account.parse().unwrap(), currency: Currency::new(code).unwrap(), amount: Money(amount) }
}

#[test]
fn text_forms_go_there_and_back() {
    for text in TEXTS {
        let account: LedgerAccount = text.parse().unwrap();
        assert_eq!(account.to_string(), text);
        let json = serde_json::to_string(&account).unwrap();
        assert_eq!(json, format!("{text:?}"));
        assert_eq!(serde_json::from_str::<LedgerAccount>(&json).unwrap(), account);
    }
    for text in ["", "driver", "driver:", "energy:main/op1", "energy:main/op1:cny", "gold:main/op1:CNY"] {
        assert!(text.parse::<LedgerAccount>().is_err(), "{text}");
    }
}

#[test]
fn what_is_prepared_changes_nothing_until_it_is_taken() {
    let entry = [post("driver:a", "CNY", 100), post("top-up:main:CNY", "CNY", -100)];
    let mut books = Books::default();
    let mut entries = books.entries();
    assert!(entries.prepare(entry[..1].to_vec()).is_err());
    let _ = entries.prepare(entry.to_vec()).unwrap();
    for _ in 0..3 {
        let prepared = entries.prepare(entry.to_vec()).unwrap();
        entries.take(prepared);
    }
    entries.commit();
    let mut applied = Books::default();
    (0..3).for_each(|_| applied.apply(&entry).unwrap());
    assert_eq!(books, applied);
}

#[test]
fn an_account_that_is_named_twice_in_an_entry_moves_twice() {
    let mut books = Books::default();
    let entry = [post("driver:a", "CNY", 70), post("driver:a", "CNY", 30), post("top-up:main:CNY", "CNY", -100)];
    books.apply(&entry).unwrap();
    assert_eq!(books.balance(&"driver:a".parse().unwrap()), Money(100));
}

#[test]
fn an_entry_balances_in_every_currency_or_is_refused_whole() {
    let mut books = Books::default();
    books.apply(&[post("driver:a", "CNY", 100), post("top-up:main:CNY", "CNY", -100)]).unwrap();
    let before = books.clone();
    // Ten yuan do not pay for ten euros.
    let mixed = [post("driver:a", "CNY", -10), post("energy:op:EUR", "EUR", 10)];
    assert_eq!(books.apply(&mixed), Err(LedgerError::Unbalanced { currency: cny(), off: -10 }));
    let wrong_currency = [post("driver:a", "EUR", -10), post("energy:op:EUR", "EUR", 10)];
    assert_eq!(books.apply(&wrong_currency).unwrap_err().code(), "currency_mismatch");
    let wrong_name = [post("energy:op:CNY", "EUR", -10), post("energy:op:EUR", "EUR", 10)];
    assert_eq!(books.apply(&wrong_name).unwrap_err().code(), "currency_mismatch");
    let too_much = [post("driver:a", "CNY", i64::MAX), post("energy:op:CNY", "CNY", -i64::MAX)];
    assert_eq!(books.apply(&too_much).unwrap_err().code(), "balance_overflow");
    assert_eq!(books, before);
}

#[test]
fn several_legs_on_one_account_add_up() {
    let mut books = Books::default();
    let entry = [post("driver:a", "CNY", 7), post("driver:a", "CNY", 5), post("top-up:main:CNY", "CNY", -12)];
    books.apply(&entry).unwrap();
    assert_eq!(books.balance(&"driver:a".parse().unwrap()), Money(12));
    assert_eq!(books.balance(&"driver:b".parse().unwrap()), Money(0));
}

#[test]
fn a_changed_balance_shows_as_imbalance() {
    let mut books = Books::default();
    books.apply(&[post("driver:a", "CNY", 100), post("top-up:main:CNY", "CNY", -100)]).unwrap();
    assert!(books.imbalance().is_empty());
    books.balances.insert("driver:a".parse().unwrap(), (cny(), Money(101)));
    assert_eq!(books.imbalance(), BTreeMap::from([(cny(), Money(1))]));
    assert_eq!(books.sum(cny()), Money(1));
    assert_eq!(books.sum(Currency::new("EUR").unwrap()), Money(0));
}

#[test]
fn books_of_shards_fold() {
    let mut first = Books::default();
    first.apply(&[post("driver:a", "CNY", -5), post("energy:op:CNY", "CNY", 5)]).unwrap();
    let mut second = Books::default();
    second.apply(&[post("driver:b", "CNY", -8), post("energy:op:CNY", "CNY", 8)]).unwrap();
    first.absorb(&second).unwrap();
    assert_eq!(first.balance(&"energy:op:CNY".parse().unwrap()), Money(13));
    assert_eq!(first.balances.len(), 3);
    assert!(first.imbalance().is_empty());
}

proptest! {
    /// Whatever is thrown at the books, their sum stays zero and a refused entry leaves them as they were.
    #[test]
    fn the_sum_is_always_zero(
        entries in prop::collection::vec(
            (prop::collection::vec((0_usize..4, -100_i64..100), 1..5), any::<bool>()), 1..40,
        ),
    ) {
        let accounts = ["driver:a", "driver:b", "energy:op:CNY", "top-up:main:CNY"];
        let mut books = Books::default();
        for (legs, balanced) in entries {
            let mut postings: Vec<_> =
                legs.iter().map(|(account, amount)| post(accounts[*account], "CNY", *amount)).collect();
            if balanced {
                let rest = -postings.iter().map(|posting| posting.amount.0).sum::<i64>();
                postings.push(post("overshoot:op:CNY", "CNY", rest));
            }
            let before = books.clone();
            match books.apply(&postings) {
                Ok(()) => prop_assert_eq!(postings.iter().map(|posting| posting.amount.0).sum::<i64>(), 0),
                Err(_) => prop_assert_eq!(&books, &before),
            }
            prop_assert_eq!(books.sum(cny()), Money(0));
        }
        let json = serde_json::to_string(&books).unwrap();
        prop_assert_eq!(serde_json::from_str::<Books>(&json).unwrap(), books);
    }
}
