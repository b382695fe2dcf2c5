#!/usr/bin/env python3
"""A gateway for Chargeplane, written from docs/reference/wire.md alone, with public packages.

    chargeplane gateway enroll main/gw-01 -o json > identity.json
    pip install -r examples/requirements.txt
    python examples/gateway.py --identity identity.json --broker 127.0.0.1:1883 --state ./gw-01

It speaks for the chargers of its enrolment, each a simulated one with a car that waits for a start command. The ring is a
SQLite file: whatever is published is durable first, is sent again byte by byte, and leaves only when the node
acknowledged it. What happens is told on standard output, a JSON object a line.

When the identity file changes (`chargeplane gateway rotate`), the gateway goes on under the new key: a new boot, the same
ring, no session ended. Section numbers in comments are those of wire.md.
"""

import argparse
import hashlib
import importlib
import json
import pathlib
import queue
import re
import secrets
import signal
import sqlite3
import struct
import sys
import tempfile
import time

import paho.mqtt.client as mqtt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from grpc_tools import protoc

HEADER = struct.Struct(">2sBBBBHQIIQQQII")  # section 2, 56 bytes
TAG = 16
STREAMS = {"events": 0, "fast": 1, "slow": 2, "replay": 3, "beat": 4}
TELEMETRY = ("fast", "slow", "replay")
BATCH_ITEMS, BATCH_MS = 200, 500  # section 4
EVENTS_UNDER_WAY = 32  # section 5
KEPT = ("events", *TELEMETRY)  # the streams whose batches are kept until they are acknowledged
EVENTS_RETRY_MS = 3_000
RESUME_WAIT_MS, LOCAL_MS, FIRST_CREDIT = 1_000, 3_000, 64
THINNED, DROPPED, REFUSED = 1, 2, 3  # reasons of gaps
DONE, REFUSED_END, EXPIRED = 1, 2, 3  # ends of commands
REMEMBER_MS, BEATS_KEPT_MS = 24 * 3_600_000, 600_000
FUNDS, REMOTE = 4, 6  # reasons of stops


def mono_ms():
    return time.monotonic_ns() // 1_000_000


def wall_ms():
    return time.time_ns() // 1_000_000


def tell(what, **fields):
    print(json.dumps({"what": what, **fields}), flush=True)


def load_schema(page):
    """Compiles the messages out of the page that describes them (section 3)."""
    text = re.search(r"```proto\n(.*?)```", pathlib.Path(page).read_text(), re.S).group(1)
    folder = tempfile.mkdtemp(prefix="chargeplane-wire-")
    pathlib.Path(folder, "chargeplane_wire.proto").write_text(text)
    if protoc.main(["protoc", f"-I{folder}", f"--python_out={folder}", "chargeplane_wire.proto"]) != 0:
        sys.exit(f"the messages in {page} do not compile")
    sys.path.insert(0, folder)
    return importlib.import_module("chargeplane_wire_pb2")


class Sealing:
    """Section 2: one key a direction and stream, nonces out of boot and sequence."""

    def __init__(self, gateway, root, key_epoch):
        self.node = int.from_bytes(hashlib.sha256(gateway.encode()).digest()[:8], "big")
        self.key_epoch = key_epoch
        self.up = {number: self._derive(root, 0, number) for number in STREAMS.values()}
        self.down = self._derive(root, 1, 0)

    def _derive(self, root, direction, stream):
        info = b"chargeplane/batch/v1" + struct.pack(">BBBQI", 1, direction, stream, self.node, self.key_epoch)
        okm = HKDF(algorithm=SHA256(), length=44, salt=b"chargeplane-v1", info=info).derive(root)
        return AESGCM(okm[:32]), okm[32:]

    @staticmethod
    def _nonce(mask, boot, seq):
        return bytes(a ^ b for a, b in zip(mask, struct.pack(">IQ", boot, seq)))

    def seal(self, stream, boot, seq, plain, items, first_item=0, flags=0):
        number, (key, mask) = STREAMS[stream], self.up[STREAMS[stream]]
        header = HEADER.pack(b"CP", 1, flags, 1, number, items, self.node, self.key_epoch, boot, seq, first_item,
                             wall_ms() * 1000, len(plain), len(plain))
        return header + key.encrypt(self._nonce(mask, boot, seq), plain, header)

    def open_down(self, packet):
        """The plain bytes, or None: nothing is believed of a packet whose tag is wrong."""
        if not HEADER.size + TAG <= len(packet) <= 262_144:
            return None
        magic, version, _, suite, stream, _, node, key_epoch, boot, seq, *_ = HEADER.unpack(packet[:HEADER.size])
        if (magic, version, suite, stream, node, key_epoch) != (b"CP", 1, 1, 0, self.node, self.key_epoch):
            return None
        key, mask = self.down
        try:
            return key.decrypt(self._nonce(mask, boot, seq), packet[HEADER.size:], packet[:HEADER.size])
        except InvalidTag:
            return None


class Ring:
    """Section 4: what was sealed and not acknowledged, the numbers in use, the memory of commands."""

    def __init__(self, folder):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(pathlib.Path(folder, "ring.sqlite"), isolation_level=None)
        self.db.executescript("""
            PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA locking_mode = EXCLUSIVE;
            CREATE TABLE IF NOT EXISTS numbers(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
            CREATE TABLE IF NOT EXISTS batches(stream TEXT, boot INTEGER, seq INTEGER, key_epoch INTEGER, sealed BLOB,
                content TEXT, PRIMARY KEY(stream, boot, seq));
            CREATE TABLE IF NOT EXISTS acked(stream TEXT, boot INTEGER, key_epoch INTEGER, seq INTEGER,
                PRIMARY KEY(stream, boot, key_epoch));
            CREATE TABLE IF NOT EXISTS commands(id TEXT PRIMARY KEY, child INTEGER, end INTEGER, refusal TEXT, at INTEGER);
            CREATE TABLE IF NOT EXISTS sessions(child INTEGER PRIMARY KEY, session TEXT, start_wh INTEGER,
                allowance_wh INTEGER);
        """)

    def number(self, name, otherwise=0):
        row = self.db.execute("SELECT value FROM numbers WHERE name = ?", (name,)).fetchone()
        return row[0] if row else otherwise

    def set_number(self, name, value):
        self.db.execute("INSERT OR REPLACE INTO numbers VALUES(?, ?)", (name, value))

    def together(self):
        """`with ring.together():` makes all of it durable at once, or nothing."""
        return Transaction(self.db)

    def next_boot(self):
        with self.together():
            boot = self.number("boot") + 1
            self.set_number("boot", boot)
        return boot  # durable before the first seal of the boot

    def append(self, stream, boot, seq, key_epoch, sealed, content):
        self.db.execute("INSERT INTO batches VALUES(?, ?, ?, ?, ?, ?)",
                        (stream, boot, seq, key_epoch, sealed, json.dumps(content)))

    def held(self, stream):
        return self.db.execute("SELECT boot, seq, key_epoch FROM batches WHERE stream = ? ORDER BY boot, seq",
                               (stream,)).fetchall()

    def take(self, stream, boot, seq, key_epoch):
        """Removes one batch and returns what was in it."""
        row = self.db.execute("DELETE FROM batches WHERE stream = ? AND boot = ? AND seq = ? AND key_epoch = ? "
                              "RETURNING content", (stream, boot, seq, key_epoch)).fetchone()
        return json.loads(row[0]) if row else None


class Transaction:
    def __init__(self, db):
        self.db = db

    def __enter__(self):
        self.outer = not self.db.in_transaction
        if self.outer:
            self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind, *_):
        if self.outer:
            self.db.execute("ROLLBACK" if kind else "COMMIT")


class Charger:
    """A simulated charger: 400 V, and a car that takes what the limit allows."""

    def __init__(self, ring, child, terms):
        self.child, self.demand_w, self.fallback_w = child, min(terms["rated_w"], 60_000), terms["fallback_w"]
        self.register_mwh = ring.number(f"register/{child}") * 1000
        row = ring.db.execute("SELECT session, start_wh, allowance_wh FROM sessions WHERE child = ?", (child,)).fetchone()
        self.session, self.start_wh, self.allowance_wh = row or ("", 0, 0)
        self.granted_w, self.lease_ends, self.began, self.at = 0, 0, mono_ms(), mono_ms()

    @property
    def register_wh(self):
        return self.register_mwh // 1000

    def limit_w(self, now):
        """Section 6: the grant while its lease lasts, then the fallback while it charges, else nothing."""
        if self.lease_ends > now:
            return self.granted_w
        waits = self.lease_ends == 0 and now - self.began < 30_000
        return self.fallback_w if self.session and not waits else 0

    def power_w(self, now):
        return min(self.demand_w, self.limit_w(now)) if self.session else 0

    def step(self, now):
        self.register_mwh += self.power_w(now) * (now - self.at) // 3_600
        self.at = now

    def reading(self, now):
        """Section 3, the columns of Samples."""
        power = self.power_w(now)
        volts = 4_000 + self.register_wh % 97
        return [wall_ms(), volts, power * 100 // volts, 250 + power // 4_000, min(1_000, 200 + self.register_wh // 60), power,
                self.register_wh]


class Gateway:
    def __init__(self, options):
        self.options, self.pb = options, load_schema(options.wire)
        self.ring, self.inbox = Ring(options.state), queue.Queue()
        self.identity_seen = None
        self.load_identity()
        self.chargers = {c["child"]: Charger(self.ring, c["child"], c) for c in self.identity["children"]}
        self.begin_boot()
        self.finish_interrupted()
        self.client = None
        self.connected, self.hold_until, self.unfinished = False, 0, True
        self.connect()

    # --- identity, boots, connection

    def load_identity(self):
        path = pathlib.Path(self.options.identity)
        self.identity_seen = path.stat().st_mtime_ns
        self.identity = json.loads(path.read_text())
        gateway, key_epoch = self.identity["gateway"], self.identity["key_epoch"]
        if key_epoch < self.ring.number("key_epoch"):
            sys.exit("the identity is older than the ring")
        self.sealing = Sealing(gateway, bytes.fromhex(self.identity["key"]), key_epoch)
        tenant, name = gateway.split("/")
        self.topic = f"cp/v1/{tenant}/{self.identity['shard']}/{name}"

    def begin_boot(self):
        """What was sealed before goes on under its own boot and key; everything new is of this boot."""
        self.ring.set_number("key_epoch", self.sealing.key_epoch)
        self.boot = self.ring.next_boot()
        self.seqs = dict.fromkeys(STREAMS, 0)
        self.flying = {stream: {} for stream in KEPT}  # (boot, seq) -> sent at
        self.open_batches = {stream: ([], 0) for stream in TELEMETRY}  # rows, time of the first
        self.beats, self.nonce, self.last_beat, self.answered = {}, 0, -10_000, mono_ms()
        self.epoch, self.grant_seq, self.credit = 0, 0, FIRST_CREDIT
        tell("boot", boot=self.boot, key_epoch=self.sealing.key_epoch)

    def connect(self):
        if self.client:
            self.client.disconnect()
            self.client.loop_stop()
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=self.identity["client_id"],
                             protocol=mqtt.MQTTv311, clean_session=True)
        client.username_pw_set(self.identity["username"], self.identity["password"])
        client.on_connect = lambda c, *_: c.subscribe(f"{self.topic}/down", qos=1)
        # With the client, so that the last words of one that was given up are told from those of its successor.
        client.on_subscribe = lambda c, *_: self.inbox.put((c, "up", None))
        client.on_disconnect = lambda c, *_: self.inbox.put((c, "lost", None))
        client.on_message = lambda c, _, message: self.inbox.put((c, "message", message.payload))
        client.reconnect_delay_set(1, 5)
        host, port = self.options.broker.rsplit(":", 1)
        client.connect_async(host, int(port), keepalive=30)
        client.loop_start()
        self.client = client

    def rotate(self):
        """A new identity: everything open is sealed under the old key, then a new boot begins under the new one."""
        for stream in TELEMETRY:
            self.seal_samples(stream)
        self.load_identity()
        self.begin_boot()
        self.connected = False
        self.connect()
        tell("rotated", key_epoch=self.sealing.key_epoch)

    # --- the loop

    def run(self):
        options, next_sample = self.options, mono_ms()
        # A batch leaves when it is full or its time is over, whichever comes first; of two streams when some charge.
        batch_ms = min(options.batch_ms, BATCH_ITEMS * options.sample_ms / max(1, len(self.chargers)))
        tell("ring", batches=options.ring_batches, hours=round(options.ring_batches * batch_ms / 2 / 3_600_000, 1))
        while self.unfinished:
            try:
                client, kind, payload = self.inbox.get(timeout=0.01)
                if client is not self.client:
                    continue
                if kind == "message":
                    self.on_message(payload)
                elif kind == "up":
                    self.connected, self.answered = True, mono_ms()
                    self.hold_until = mono_ms() + RESUME_WAIT_MS
                    self.flying = {stream: {} for stream in KEPT}
                    tell("connected")
                    self.send_beat()
                else:
                    self.connected = False
                    tell("disconnected")
            except queue.Empty:
                pass
            now = mono_ms()
            if now >= next_sample:
                self.sample(now)
                next_sample = max(next_sample + self.options.sample_ms, now)
            self.flush_due(now)
            self.send_due(now)
            if pathlib.Path(self.options.identity).stat().st_mtime_ns != self.identity_seen:
                self.rotate()
        for stream in TELEMETRY:
            self.seal_samples(stream)
        self.client.disconnect()
        self.client.loop_stop()

    def local(self, now):
        return not self.connected or now - self.answered > LOCAL_MS

    # --- samples (section 4)

    def sample(self, now):
        for charger in self.chargers.values():
            charger.step(now)
            if charger.session and charger.register_wh - charger.start_wh >= charger.allowance_wh:
                self.stop(charger, FUNDS)
            stream = "replay" if self.local(now) else "fast" if charger.session else "slow"
            rows, first = self.open_batches[stream]
            self.open_batches[stream] = (rows, first or now)
            rows.append((charger.child, charger.reading(now)))

    def flush_due(self, now):
        for stream, (rows, first) in self.open_batches.items():
            if rows and (len(rows) >= BATCH_ITEMS or now - first >= self.options.batch_ms):
                self.seal_samples(stream)

    def seal_samples(self, stream):
        """Numbers the rows and seals them. The numbers become durable with the batch, so none is used twice."""
        with self.ring.together():
            made = self.seal_rows(stream)
        for child, number, reading in made:
            tell("sample", child=child, number=number, reading=reading)

    def seal_rows(self, stream):
        rows, _ = self.open_batches[stream]
        self.open_batches[stream] = ([], 0)
        if not rows:
            return []
        body, spans, made = self.pb.Samples(base_ms=rows[0][1][0]), [], []
        for child in sorted({child for child, _ in rows}):
            readings = [reading for of, reading in rows if of == child]
            first = self.ring.number(f"sample/{child}")
            before = [body.base_ms, 0, 0, 0, 0, 0, 0]
            for reading in readings:
                for column, value, last in zip(COLUMNS, reading, before):
                    getattr(body, column).append(value - last)
                before = reading
            body.child.append(child)
            body.first_number.append(first)
            body.count.append(len(readings))
            spans.append([child, first, first + len(readings) - 1])
            self.ring.set_number(f"sample/{child}", first + len(readings))
            self.ring.set_number(f"register/{child}", self.chargers[child].register_wh)
            made += [(child, number, reading) for number, reading in enumerate(readings, first)]
        self.append(stream, self.pb.Up(version=1, samples=body), len(rows), spans[0][1], {"spans": spans, "gaps": []})
        return made

    def declare(self, content, reason):
        """Samples that will not come again, and what the batch had declared itself (section 5)."""
        gaps = content["gaps"] + [[child, first, last, reason] for child, first, last in content["spans"]]
        body = self.pb.Samples(base_ms=wall_ms())
        for child, first, last, why in gaps:
            body.gaps.add(child=child, first=first, last=last, reason=why)
            tell("gap", child=child, first=first, last=last, reason=why)
        self.append("replay", self.pb.Up(version=1, samples=body), len(gaps), 0, {"spans": [], "gaps": gaps}, flags=16)

    def append(self, stream, up, items, first_item, content, flags=0):
        self.seqs[stream] += 1
        seq, plain = self.seqs[stream], up.SerializeToString()
        sealed = self.sealing.seal(stream, self.boot, seq, plain, items, first_item, flags)
        self.ring.append(stream, self.boot, seq, self.sealing.key_epoch, sealed, content)

    def make_room(self):
        """When the ring is full, the oldest telemetry goes and is declared, durably and at once."""
        full = "SELECT count(*), min(rowid) FROM batches WHERE stream <> 'events'"
        count, oldest = self.ring.db.execute(full).fetchone()
        if count > self.options.ring_batches:
            stream, boot, seq, key_epoch = self.ring.db.execute(
                "SELECT stream, boot, seq, key_epoch FROM batches WHERE rowid = ?", (oldest,)).fetchone()
            with self.ring.together():
                self.declare(self.ring.take(stream, boot, seq, key_epoch), DROPPED)

    # --- events

    def event(self, child, **body):
        """Durable before it is published, and never dropped."""
        number = self.ring.number("event", 1)
        self.ring.set_number("event", number + 1)
        event = self.pb.Event(number=number, child=child, at_ms=wall_ms(), **body)
        up = self.pb.Up(version=1, events=self.pb.Events(events=[event]))
        self.append("events", up, 1, number, {"spans": [], "gaps": []}, flags=4)

    # --- what is sent (section 5)

    def send_due(self, now):
        self.make_room()
        if not self.connected:
            return
        charging = any(charger.session for charger in self.chargers.values())
        if now - self.last_beat >= (1_000 if charging else 5_000):
            self.send_beat()
        for stream in KEPT:
            retry = EVENTS_RETRY_MS if stream == "events" else self.options.retry_ms
            flying = self.flying[stream]
            for key in [key for key, sent in flying.items() if now - sent >= retry]:
                del flying[key]
            if stream != "events" and now < self.hold_until:
                continue
            window = EVENTS_UNDER_WAY if stream == "events" else self.credit if stream == "replay" else 1_000_000
            for boot, seq, key_epoch in self.ring.held(stream):
                if len(flying) >= window:
                    break
                if (boot, seq, key_epoch) not in flying:
                    sealed = self.ring.db.execute("SELECT sealed FROM batches WHERE stream = ? AND boot = ? AND seq = ?",
                                                  (stream, boot, seq)).fetchone()[0]
                    self.client.publish(f"{self.topic}/up/{stream}", sealed, qos=1)
                    flying[(boot, seq, key_epoch)] = now

    def cursors(self, rows):
        return [self.pb.Cursor(stream=STREAMS[s], boot=b, key_epoch=k, seq=q) for s, b, k, q in rows]

    def send_beat(self):
        now, self.nonce = mono_ms(), self.nonce + 1
        beat = self.pb.Beat(mono_ms=now, nonce=self.nonce, epoch_seen=self.epoch, applied_grant_seq=self.grant_seq,
                            local=self.local(now))
        beat.acked.extend(self.cursors(self.ring.db.execute(
            "SELECT stream, boot, key_epoch, seq FROM acked WHERE boot = ? OR EXISTS(SELECT 1 FROM batches b WHERE "
            "(b.stream, b.boot, b.key_epoch) = (acked.stream, acked.boot, acked.key_epoch))", (self.boot,))))
        floors = {(stream, self.boot, self.sealing.key_epoch): self.seqs[stream] + 1 for stream in KEPT}
        for stream, boot, key_epoch, lowest in self.ring.db.execute(
                "SELECT stream, boot, key_epoch, min(seq) FROM batches GROUP BY 1, 2, 3"):
            floors[(stream, boot, key_epoch)] = lowest
        beat.floors.extend(self.cursors([(*name, seq) for name, seq in floors.items()]))
        with self.ring.together():
            for charger in self.chargers.values():
                charger.step(now)
                self.ring.set_number(f"register/{charger.child}", charger.register_wh)
        for charger in self.chargers.values():
            beat.chargers.add(child=charger.child, granted_w=charger.limit_w(now),
                              lease_left_ms=max(0, charger.lease_ends - now), session=charger.session,
                              demand_w=charger.demand_w if charger.session else 0, power_w=charger.power_w(now),
                              register_wh=charger.register_wh, charging=bool(charger.session))
        plain = self.pb.Up(version=1, beat=beat).SerializeToString()
        self.seqs["beat"] += 1
        sealed = self.sealing.seal("beat", self.boot, self.seqs["beat"], plain, 1)
        self.client.publish(f"{self.topic}/up/beat", sealed, qos=0)
        self.last_beat = now
        self.beats[self.nonce] = now
        self.beats = {nonce: sent for nonce, sent in self.beats.items() if now - sent < BEATS_KEPT_MS}

    # --- what comes down

    def on_message(self, packet):
        plain = self.sealing.open_down(packet)
        if plain is None:
            return tell("unreadable")
        down = self.pb.Down.FromString(plain)
        if down.version != 1:
            return None
        kind = down.WhichOneof("body")
        handle = {"ack": self.on_ack, "resume": self.on_resume, "grants": self.on_grants, "commands": self.on_commands,
                  "deny": lambda deny: tell("deny", code=deny.code), "notice": self.on_notice}.get(kind)
        return handle(getattr(down, kind)) if handle else None

    def heard(self, epoch):
        """Whether a message of this epoch counts: lower ones are of a former owner."""
        if epoch < self.epoch:
            return False
        if epoch > self.epoch:
            self.epoch, self.grant_seq = epoch, 0
        self.answered = mono_ms()
        return True

    def on_ack(self, ack):
        if not self.heard(ack.epoch):
            return
        stream = next((name for name, number in STREAMS.items() if number == ack.stream), None)
        if stream not in KEPT:
            return
        boot, key_epoch = ack.boot, ack.key_epoch
        with self.ring.together():
            for refusal in ack.refused:
                content = self.ring.take(stream, boot, refusal.seq, key_epoch)
                if content:
                    tell("refused", stream=stream, seq=refusal.seq, reason=refusal.reason)
                    if stream != "events":
                        self.declare(content, REFUSED)
            freed = self.ring.db.execute(
                "DELETE FROM batches WHERE stream = ? AND boot = ? AND key_epoch = ? AND seq <= ?",
                (stream, boot, key_epoch, ack.upto_seq)).rowcount
            self.ring.db.execute(
                "INSERT INTO acked VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)",
                (stream, boot, key_epoch, ack.upto_seq))
        held = {tuple(key) for key in self.ring.held(stream)}
        self.flying[stream] = {key: sent for key, sent in self.flying[stream].items() if key in held}
        if stream != "events":
            self.credit = ack.credit
        if freed:
            tell("acked", stream=stream, boot=boot, upto=ack.upto_seq, freed=freed, held=len(held))

    def on_resume(self, resume):
        """Everything above the node's cursors goes again; what is below waits for its acknowledgement."""
        if not self.heard(resume.epoch):
            return
        self.hold_until, self.credit, now = 0, FIRST_CREDIT, mono_ms()
        known = {(c.stream, c.boot, c.key_epoch): c.seq for c in resume.cursors}
        for stream in KEPT:
            self.flying[stream] = {(boot, seq, key_epoch): now for boot, seq, key_epoch in self.ring.held(stream)
                                   if seq <= known.get((STREAMS[stream], boot, key_epoch), 0)}
        tell("resume", epoch=resume.epoch)

    def on_grants(self, grants):
        """Section 6."""
        if not self.heard(grants.epoch) or grants.seq <= self.grant_seq:
            return
        self.grant_seq, now = grants.seq, mono_ms()
        sent = self.beats.get(grants.answers_nonce) if grants.boot == self.boot else None
        ends = sent + grants.lease_ms if sent is not None else 0
        for entry in grants.entries:
            charger = self.chargers.get(entry.child)
            if not charger:
                continue
            charger.step(now)
            if ends > now:
                charger.granted_w, charger.lease_ends = entry.w, ends
            elif entry.w < charger.limit_w(now):
                charger.granted_w = entry.w
                charger.lease_ends = max(charger.lease_ends, now + (0 if charger.lease_ends > now else grants.lease_ms))
            if charger.session and entry.HasField("allowance_wh") and sent is not None and sent >= charger.began:
                charger.allowance_wh = entry.allowance_wh

    def on_notice(self, notice):
        tell("notice", code=notice.code, detail=notice.detail)
        upto = min(notice.revoked_upto, self.sealing.key_epoch - 1)
        with self.ring.together():
            for stream in KEPT:
                for boot, seq, key_epoch in self.ring.held(stream):
                    if key_epoch <= upto:
                        content = self.ring.take(stream, boot, seq, key_epoch)
                        if stream != "events":
                            self.declare(content, REFUSED)

    # --- commands (section 7)

    def on_commands(self, commands):
        for command in commands.commands:
            known = self.ring.db.execute("SELECT end, refusal FROM commands WHERE id = ?", (command.id,)).fetchone()
            if known:
                if known[0]:
                    self.report(command, *known)
                continue
            sent = self.beats.get(command.answers_nonce) if command.boot == self.boot else None
            if sent is None:
                continue  # it may be from any time: it is sent again, answering a later beat
            if mono_ms() > sent + command.within_ms:
                self.finish(command, EXPIRED)
            elif command.child not in self.chargers:
                self.finish(command, REFUSED_END, "unknown_charger")
            else:
                # Durable before anything is done.
                self.ring.db.execute("DELETE FROM commands WHERE at < ?", (wall_ms() - REMEMBER_MS,))
                self.ring.db.execute("INSERT INTO commands VALUES(?, ?, 0, '', ?)", (command.id, command.child, wall_ms()))
                self.carry_out(command, self.chargers[command.child])

    def carry_out(self, command, charger):
        action = command.WhichOneof("action")
        tell("command", id=command.id, child=command.child, action=action)
        charger.step(mono_ms())
        with self.ring.together():
            if action == "start":
                if charger.session:
                    return self.finish(command, REFUSED_END, "busy")
                charger.session, charger.allowance_wh = command.start.session, command.start.allowance_wh
                charger.start_wh, charger.began, charger.lease_ends = charger.register_wh, mono_ms(), 0
                self.ring.db.execute("INSERT OR REPLACE INTO sessions VALUES(?, ?, ?, ?)",
                                     (charger.child, charger.session, charger.start_wh, charger.allowance_wh))
                started = self.pb.SessionStarted(session=charger.session, register_wh=charger.register_wh)
                self.event(charger.child, session_started=started)
            elif action == "stop":
                if charger.session != command.stop.session:
                    return self.finish(command, REFUSED_END, "no_such_session")
                self.stop(charger, command.stop.reason or REMOTE)
            self.finish(command, DONE)
        return self.send_beat() if self.connected else None

    def finish_interrupted(self):
        """A command without an end after a restart: here its effect is durable together with its end, so it had none."""
        interrupted = self.ring.db.execute("SELECT id, child FROM commands WHERE end = 0").fetchall()
        for command, child in interrupted:
            with self.ring.together():
                self.ring.db.execute("UPDATE commands SET end = ?, refusal = 'interrupted' WHERE id = ?",
                                     (REFUSED_END, command))
                result = self.pb.CommandResult(command=command, end=REFUSED_END, refusal="interrupted")
                self.event(child, command_result=result)

    def stop(self, charger, reason):
        with self.ring.together():
            self.ring.db.execute("DELETE FROM sessions WHERE child = ?", (charger.child,))
            stopped = self.pb.SessionStopped(session=charger.session, register_wh=charger.register_wh, reason=reason)
            self.event(charger.child, session_stopped=stopped)
        charger.session, charger.lease_ends = "", 0

    def finish(self, command, end, refusal=""):
        with self.ring.together():
            self.ring.db.execute("INSERT OR REPLACE INTO commands VALUES(?, ?, ?, ?, ?)",
                                 (command.id, command.child, end, refusal, wall_ms()))
            self.report(command, end, refusal)

    def report(self, command, end, refusal):
        with self.ring.together():
            self.event(command.child, command_result=self.pb.CommandResult(command=command.id, end=end, refusal=refusal))


COLUMNS = ("at_ms", "voltage_dv", "current_da", "temperature_dc", "soc_permille", "power_w", "register_wh")


def main():
    parser = argparse.ArgumentParser(description="An example gateway for Chargeplane.")
    parser.add_argument("--identity", required=True, help="what `chargeplane gateway enroll -o json` printed")
    parser.add_argument("--broker", default="127.0.0.1:1883", metavar="HOST:PORT")
    parser.add_argument("--state", required=True, help="directory of the ring")
    parser.add_argument("--sample-ms", type=int, default=1_000, help="pause between two readings of a charger")
    parser.add_argument("--batch-ms", type=int, default=BATCH_MS, help="how long a reading waits for others")
    parser.add_argument("--retry-ms", type=int, default=60_000,
                        help="when telemetry that nobody acknowledged is sent again")
    parser.add_argument("--ring-batches", type=int, default=200_000, help="batches of telemetry that the ring holds")
    parser.add_argument("--wire", default=str(pathlib.Path(__file__).parent / "../docs/reference/wire.md"),
                        help="the page with the messages")
    gateway = Gateway(parser.parse_args())

    def end(*_):
        gateway.unfinished = False

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    gateway.run()


if __name__ == "__main__":
    main()
