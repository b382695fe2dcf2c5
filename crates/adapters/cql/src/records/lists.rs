//! Pages of charge records: lists of buckets, each sorted, merged from the newest on.
//!
//! A list (of a city, a charger, an account) is in buckets, and a table says which there are. A bucket is opened when
//! nothing newer is left in those that are open, and several at once when the ones before had little, so a page takes
//! few rounds whether a list is dense or sparse. The list of a tenant is those of its cities.

use super::store::{Patience, Store, side_by_side, unreadable};
use super::tables::{Kind, Tables};
use super::write::{city_of, day_of, read};
use chargeplane_actors::ports::{RecordId, RecordQuery, StoreError, StoredRecord};
use chargeplane_domain::month::Month;
use chargeplane_domain::tariff::zone::TimeZone;
use chargeplane_domain::units::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;

/// Buckets that are read of a list at a time.
const BUCKETS: i32 = 100;

/// Most buckets that are opened at once.
const MOST_AT_ONCE: usize = 32;

/// Rows beyond its share that are read of a bucket, so that it does not run dry at once.
const SPARE: usize = 8;

/// No wall clock is further from UTC.
const WIDEST_OFFSET_MS: i64 = 26 * 3_600_000;

/// Where a record is in the order of all: when it ended, and its id.
type Order = (i64, i64);

/// A part of a list.
#[derive(Debug, Clone)]
struct Bucket {
    kind: Kind,
    name: Arc<str>,
    month: Month,
    number: i64,
    /// Its records ended before this.
    to: i64,
}

/// What is left to open of a list.
struct List {
    kind: Kind,
    name: Arc<str>,
    /// The last is the one whose records ended last.
    loaded: Vec<Bucket>,
    /// Buckets of months before this text are not loaded; none when all are.
    more: Option<String>,
    /// The records of those ended before this.
    more_to: i64,
}

type Row = (i64, i64, i32, i64, i32, Vec<u8>);

/// A bucket that is being read.
struct Open {
    bucket: Bucket,
    rows: VecDeque<Row>,
    /// The next rows are before this; none when there are no more.
    next: Option<Order>,
}

impl Open {
    fn head(&self) -> Option<Order> {
        self.rows.front().map(|row| (row.0, row.1))
    }
}

/// A page of records, newest first.
pub(super) async fn page(
    store: &Arc<Store>,
    tables: &Arc<Tables>,
    query: &RecordQuery,
) -> Result<Vec<StoredRecord>, StoreError> {
    let mut merge = Merge::of(store, tables, query).await?;
    let mut found = Vec::new();
    while found.len() < query.limit {
        let wanted = query.limit.saturating_sub(found.len());
        let Some((_, _, shard, lsn, idx, record)) = merge.next(wanted).await? else { break };
        let record = read(shard, lsn, idx, &record)?;
        if query.wants(&record.record) {
            found.push(record);
        }
    }
    Ok(found)
}

struct Merge<'a> {
    store: &'a Arc<Store>,
    tables: &'a Arc<Tables>,
    month: Option<Month>,
    /// Records from here ...
    from: Order,
    /// ... to before this.
    to: Order,
    lists: Vec<List>,
    open: Vec<Open>,
    /// Buckets to open the next time.
    width: usize,
}

impl<'a> Merge<'a> {
    async fn of(store: &'a Arc<Store>, tables: &'a Arc<Tables>, query: &RecordQuery) -> Result<Self, StoreError> {
        let after = query.after.as_ref().map(|(at, session)| (at.0, RecordId::of(session).order()));
        let before = query.to.map(|to| (to.0, i64::MIN));
        let to = [after, before].into_iter().flatten().min().unwrap_or((i64::MAX, i64::MAX));
        let from = (query.from.map_or(i64::MIN, |from| from.0), i64::MIN);
        // Months after the one of `to` in any time zone have nothing for this page; '~' is after every month's text.
        let last = Month::of(Timestamp(to.0.saturating_add(WIDEST_OFFSET_MS)), &TimeZone::UTC);
        let list = |(kind, name): (Kind, String)| List {
            kind,
            name: name.into(),
            loaded: Vec::new(),
            more: Some(format!("{last}~")),
            more_to: i64::MAX,
        };
        let lists: Vec<List> = names(store, tables.number, query).await?.into_iter().map(list).collect();
        let width = lists.len().clamp(1, MOST_AT_ONCE);
        Ok(Self { store, tables, month: query.month, from, to, lists, open: Vec::new(), width })
    }

    /// The next record, when `wanted` are wanted in all.
    async fn next(&mut self, wanted: usize) -> Result<Option<Row>, StoreError> {
        loop {
            self.refill(wanted).await?;
            let best = self.open.iter().filter_map(Open::head).max();
            // Whatever may be as new as that must be open first.
            let newer_than = best.map_or(i64::MIN, |(at, _)| at);
            if self.load(newer_than).await? || self.open_some(newer_than, wanted).await? {
                continue;
            }
            let first = self.open.iter_mut().find(|open| open.head() == best && best.is_some());
            return Ok(first.and_then(|open| open.rows.pop_front()));
        }
    }

    /// Reads on in the buckets that ran dry and have more.
    async fn refill(&mut self, wanted: usize) -> Result<(), StoreError> {
        self.open.retain(|open| !open.rows.is_empty() || open.next.is_some());
        let dry: Vec<usize> = (0..).zip(&self.open).filter(|(_, open)| open.rows.is_empty()).map(|(n, _)| n).collect();
        if dry.is_empty() {
            return Ok(());
        }
        let places: Vec<(Bucket, Order)> = dry
            .iter()
            .filter_map(|n| self.open.get(*n))
            .filter_map(|open| Some((open.bucket.clone(), open.next?)))
            .collect();
        let read = self.rows(places, wanted).await?;
        for (n, (rows, next)) in dry.into_iter().zip(read) {
            if let Some(open) = self.open.get_mut(n) {
                (open.rows, open.next) = (rows, next);
            }
        }
        self.open.retain(|open| !open.rows.is_empty());
        Ok(())
    }

    /// Rows of buckets, each before an order, and where the next ones are.
    async fn rows(
        &self,
        places: Vec<(Bucket, Order)>,
        wanted: usize,
    ) -> Result<Vec<(VecDeque<Row>, Option<Order>)>, StoreError> {
        let share = wanted.div_ceil(places.len().max(1)).saturating_add(SPARE).min(wanted.max(SPARE));
        let from = self.from;
        let calls = places.into_iter().map(|(bucket, before)| {
            let (store, tables) = (Arc::clone(self.store), Arc::clone(self.tables));
            async move {
                let limit = i32::try_from(share).unwrap_or(i32::MAX);
                let (name, month) = (&*bucket.name, bucket.month.to_string());
                let values = (name, month, bucket.number, from.0, from.1, before.0, before.1, limit);
                let rows: Vec<Row> = store.rows(&tables.list(bucket.kind).rows, values, Patience::None).await?;
                let next = rows.last().filter(|_| rows.len() >= share).map(|row| (row.0, row.1));
                Ok((VecDeque::from(rows), next))
            }
        });
        side_by_side(calls).await
    }

    /// Finds out which buckets there are, in lists whose next ones are not known; whether there were such.
    async fn load(&mut self, newer_than: i64) -> Result<bool, StoreError> {
        let needs = |list: &List| {
            let next = list.loaded.last().map_or(i64::MIN, |bucket| bucket.to);
            list.more.is_some() && list.more_to > newer_than.max(next).max(self.from.0)
        };
        let wanted: Vec<usize> = (0..).zip(&self.lists).filter(|(_, list)| needs(list)).map(|(n, _)| n).collect();
        let calls: Vec<_> = wanted
            .iter()
            .filter_map(|n| self.lists.get(*n))
            .map(|list| {
                let (store, tables, month) = (Arc::clone(self.store), Arc::clone(self.tables), self.month);
                let (kind, name, more) = (list.kind, Arc::clone(&list.name), list.more.clone().unwrap_or_default());
                async move { buckets(&store, &tables, kind, &name, month, more).await }
            })
            .collect();
        let any = !wanted.is_empty();
        let found = side_by_side(calls).await?;
        for (n, (rows, more)) in wanted.into_iter().zip(found) {
            if let Some(list) = self.lists.get_mut(n) {
                list.take(rows, more, self.from.0, self.to.0);
            }
        }
        Ok(any)
    }

    /// Opens the newest of the buckets that may have something newer; whether there were such.
    async fn open_some(&mut self, newer_than: i64, wanted: usize) -> Result<bool, StoreError> {
        let mut buckets = Vec::new();
        while buckets.len() < self.width {
            let next = self.lists.iter_mut().max_by_key(|list| list.loaded.last().map(|bucket| bucket.to));
            let Some(list) = next else { break };
            match list.loaded.pop() {
                Some(bucket) if bucket.to > newer_than => buckets.push(bucket),
                Some(bucket) => {
                    list.loaded.push(bucket);
                    break;
                }
                None => break,
            }
        }
        if buckets.is_empty() {
            return Ok(false);
        }
        self.width = self.width.saturating_mul(2).min(MOST_AT_ONCE);
        let read = self.rows(buckets.iter().map(|bucket| (bucket.clone(), self.to)).collect(), wanted).await?;
        for (bucket, (rows, next)) in buckets.into_iter().zip(read) {
            self.open.push(Open { bucket, rows, next });
        }
        self.open.retain(|open| !open.rows.is_empty());
        Ok(true)
    }
}

impl List {
    /// Takes buckets of whole months, all older than those before, without what is outside of the page.
    fn take(&mut self, rows: Vec<(Month, i64)>, more: Option<Month>, from: i64, to: i64) {
        for (month, number) in rows {
            let (first, last) = month.span();
            let (begin, end) = match self.kind {
                Kind::City => day_of(number),
                Kind::Charger | Kind::Account => (first.0, last.0),
            };
            if end > from && begin <= to {
                self.loaded.push(Bucket { kind: self.kind, name: Arc::clone(&self.name), month, number, to: end });
            }
        }
        self.loaded.sort_by_key(|bucket| bucket.to);
        self.more = more.map(|month| month.to_string());
        // The month before ends, in any time zone, so long after this one has begun in the first of all.
        let begins = more.map_or(i64::MIN, |month| month.span().0.0);
        self.more_to = begins.saturating_add(WIDEST_OFFSET_MS.saturating_mul(2));
    }
}

/// Buckets of a list, of whole months before a text, or of one month; and the month before which there are more.
async fn buckets(
    store: &Store,
    tables: &Tables,
    kind: Kind,
    name: &str,
    month: Option<Month>,
    before: String,
) -> Result<(Vec<(Month, i64)>, Option<Month>), StoreError> {
    let parsed = |rows: Vec<(String, i64)>| {
        let read = |(month, number): (String, i64)| Ok((month.parse().map_err(unreadable)?, number));
        rows.into_iter().map(read).collect::<Result<Vec<(Month, i64)>, StoreError>>()
    };
    let of_month = async |month: Month| {
        let values = (kind.code(), name, month.to_string());
        parsed(store.rows(&tables.buckets_of_month, values, Patience::None).await?)
    };
    if let Some(month) = month {
        return Ok((of_month(month).await?, None));
    }
    let values = (kind.code(), name, before, BUCKETS);
    let mut rows = parsed(store.rows(&tables.buckets, values, Patience::None).await?)?;
    if rows.len() < usize::try_from(BUCKETS).unwrap_or(usize::MAX) {
        return Ok((rows, None));
    }
    // The last month may have been cut: it is left for the next time, or read alone where it is the only one.
    let (first, last) = (rows.first().map(|row| row.0), rows.last().map(|row| row.0));
    if first == last {
        let Some(month) = first else { return Ok((rows, None)) };
        return Ok((of_month(month).await?, Some(month)));
    }
    rows.retain(|row| Some(row.0) != last);
    let more = rows.last().map(|row| row.0);
    Ok((rows, more))
}

/// The lists that a query is answered from: one of them, or those of all cities.
async fn names(store: &Store, generation: i64, query: &RecordQuery) -> Result<Vec<(Kind, String)>, StoreError> {
    if let Some(charger) = &query.charger {
        return Ok(vec![(Kind::Charger, charger.as_str().to_owned())]);
    }
    if let Some(account) = &query.account {
        return Ok(vec![(Kind::Account, account.as_str().to_owned())]);
    }
    if let (Some(tenant), Some(city)) = (&query.tenant, &query.city) {
        return Ok(vec![(Kind::City, city_of(tenant.as_str(), city))]);
    }
    let cities: Vec<(String, String)> = match &query.tenant {
        Some(tenant) => store.rows(&store.shared.cities_of, (generation, tenant.as_str()), Patience::None).await?,
        None => store.rows(&store.shared.cities, (generation,), Patience::None).await?,
    };
    let wanted = cities.into_iter().filter(|(_, city)| query.city.as_ref().is_none_or(|wanted| wanted == city));
    Ok(wanted.map(|(tenant, city)| (Kind::City, city_of(&tenant, &city))).collect())
}
