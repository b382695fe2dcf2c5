# shellcheck shell=bash
# Sourced by ./dev, after scripts/install.sh: an Apache Cassandra for the tests, from its published jars.
#
# One server on loopback, with everything of its own under the cache:
#   cassandra/lib     the jars, resolved by Maven, whose settings say from where
#   cassandra/conf    its configuration, written anew at each start
#   cassandra/data    what it stores
#   cassandra/start   starts it and waits until it answers; the tests that kill it use this
#   cassandra/pid     its process
# It is kept between tests; `./dev cassandra stop` ends it.

readonly CASSANDRA_VERSION=5.0.8
readonly CASSANDRA_HOME="$CACHE/cassandra"
readonly CASSANDRA_PORT="${CHARGEPLANE_CASSANDRA_PORT:-29042}"
readonly CASSANDRA_STORAGE_PORT="$((CASSANDRA_PORT + 1))"

# cassandra start|stop|status
cassandra() {
    case "${1:-}" in
        start) need_cassandra && say "cassandra answers on 127.0.0.1:$CASSANDRA_PORT" ;;
        stop) stop_cassandra ;;
        status)
            if cassandra_runs; then
                say "cassandra runs as process $(<"$CASSANDRA_HOME/pid") on 127.0.0.1:$CASSANDRA_PORT"
            else
                say "cassandra does not run"
                return 1
            fi
            ;;
        *) fail "./dev cassandra start|stop|status" ;;
    esac
}

# The server, running. The tests find it by these variables.
need_cassandra() {
    local java
    command -v flock >/dev/null || install_packages util-linux
    mkdir -p "$CASSANDRA_HOME"
    # Two test runs at once must not install or start it twice. The server must not inherit the lock.
    exec 9>"$CASSANDRA_HOME/lock"
    flock 9
    java=$(java_17)
    if [[ -z $java ]]; then
        install_packages openjdk-17-jre-headless
        java=$(java_17)
        [[ -n $java ]] || fail "Cassandra $CASSANDRA_VERSION needs a Java 17 runtime and none was found; set JAVA_HOME"
    fi
    resolve_cassandra
    wake_cassandra
    if ! cassandra_runs; then
        configure_cassandra
        write_cassandra_start "$java"
        say "starting cassandra on 127.0.0.1:$CASSANDRA_PORT"
        "$CASSANDRA_HOME/start" 9>&- || fail "cassandra does not start; its log is $CASSANDRA_HOME/cassandra.log"
    fi
    exec 9>&-
    export CHARGEPLANE_CQL="127.0.0.1:$CASSANDRA_PORT" CHARGEPLANE_CASSANDRA="$CASSANDRA_HOME"
}

# The path of a Java 17 runtime; nothing when there is none. Newer ones do not run this Cassandra.
java_17() {
    local candidate
    for candidate in "${JAVA_HOME:-/nowhere}/bin/java" /usr/lib/jvm/java-17-*/bin/java "$(command -v java || true)"; do
        if [[ -x $candidate ]] && "$candidate" -version 2>&1 | grep -q 'version "17[."]'; then
            echo "$candidate"
            return
        fi
    done
}

# The jars of this version and of all that it needs, in one directory.
resolve_cassandra() {
    local lib="$CASSANDRA_HOME/lib" work="$CASSANDRA_HOME/resolve"
    [[ -e $lib/cassandra-all-$CASSANDRA_VERSION.jar && -e $lib/.complete ]] && return
    command -v mvn >/dev/null || install_packages maven
    say "resolving cassandra $CASSANDRA_VERSION with Maven"
    rm -rf "$lib" "$work"
    mkdir -p "$work"
    cat >"$work/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>chargeplane</groupId>
  <artifactId>cassandra-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.cassandra</groupId>
      <artifactId>cassandra-all</artifactId>
      <version>$CASSANDRA_VERSION</version>
    </dependency>
  </dependencies>
</project>
POM
    if ! (cd "$work" && mvn -q -B dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$lib") >"$work/log" 2>&1; then
        tail -20 "$work/log" >&2
        fail "Maven could not resolve org.apache.cassandra:cassandra-all:$CASSANDRA_VERSION; is a repository reachable?"
    fi
    touch "$lib/.complete"
}

# Synced at every commit (`batch`), as the ledger requires; segments that take a frame of 8 MiB.
configure_cassandra() {
    local conf="$CASSANDRA_HOME/conf" data="$CASSANDRA_HOME/data"
    mkdir -p "$conf" "$data"
    cat >"$conf/cassandra.yaml" <<YAML
cluster_name: chargeplane-tests
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
num_tokens: 1
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
storage_port: $CASSANDRA_STORAGE_PORT
native_transport_port: $CASSANDRA_PORT
start_native_transport: true
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "127.0.0.1:$CASSANDRA_STORAGE_PORT"
data_file_directories: ["$data/sstables"]
commitlog_directory: $data/commitlog
saved_caches_directory: $data/saved_caches
hints_directory: $data/hints
cdc_raw_directory: $data/cdc_raw
commitlog_sync: batch
commitlog_segment_size: 32MiB
auto_snapshot: false
memtable_allocation_type: heap_buffers
disk_access_mode: standard
paxos_variant: v2
YAML
    cat >"$conf/logback.xml" <<XML
<configuration>
  <appender name="FILE" class="ch.qos.logback.core.rolling.RollingFileAppender">
    <file>$CASSANDRA_HOME/cassandra.log</file>
    <rollingPolicy class="ch.qos.logback.core.rolling.FixedWindowRollingPolicy">
      <fileNamePattern>$CASSANDRA_HOME/cassandra.%i.log</fileNamePattern>
      <minIndex>1</minIndex>
      <maxIndex>2</maxIndex>
    </rollingPolicy>
    <triggeringPolicy class="ch.qos.logback.core.rolling.SizeBasedTriggeringPolicy">
      <maxFileSize>20MB</maxFileSize>
    </triggeringPolicy>
    <encoder><pattern>%-5level %date{ISO8601} %logger{20} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="FILE"/></root>
</configuration>
XML
}

# write_cassandra_start JAVA: the script that starts the server, for ./dev and for tests that killed it.
write_cassandra_start() {
    local java="$1" home="$CASSANDRA_HOME" package arguments=()
    arguments+=(-cp "$home/conf:$home/lib/*" "-javaagent:$(echo "$home"/lib/jamm-*.jar)")
    arguments+=(-Xms512M -Xmx512M -XX:MaxDirectMemorySize=256M -XX:+ExitOnOutOfMemoryError)
    arguments+=(-Djdk.attach.allowAttachSelf=true -Dio.netty.tryReflectionSetAccessible=true)
    arguments+=("-Dcassandra.config=file://$home/conf/cassandra.yaml" -Dcassandra-foreground=true)
    arguments+=("-Dcassandra.storagedir=$home/data" "-Dlogback.configurationFile=$home/conf/logback.xml")
    arguments+=(-Dcassandra.superuser_setup_delay_ms=0 -Dcassandra.skip_wait_for_gossip_to_settle=0)
    arguments+=(-Dcassandra.ring_delay_ms=0)
    for package in java.lang java.lang.module java.lang.reflect java.io java.util java.nio sun.nio.ch \
        jdk.internal.loader jdk.internal.ref jdk.internal.reflect jdk.internal.math jdk.internal.module jdk.internal.util.jar; do
        arguments+=(--add-opens "java.base/$package=ALL-UNNAMED")
    done
    arguments+=(--add-opens "jdk.management/com.sun.management.internal=ALL-UNNAMED")
    for package in java.base/jdk.internal.misc java.base/java.lang.ref \
        java.management.rmi/com.sun.jmx.remote.internal.rmi java.management/com.sun.jmx.remote.security \
        java.rmi/sun.rmi.registry java.rmi/sun.rmi.server java.sql/java.sql jdk.unsupported/sun.misc; do
        arguments+=(--add-exports "$package=ALL-UNNAMED")
    done
    {
        echo '#!/usr/bin/env bash'
        echo '# Written by ./dev: starts the server and waits until it takes connections.'
        printf 'cd %q\n' "$home"
        printf 'setsid nohup %q' "$java"
        printf ' %q' "${arguments[@]}" org.apache.cassandra.service.CassandraDaemon
        printf ' </dev/null >out 2>&1 &\n'
        cat <<SCRIPT
pid=\$!
echo \$pid >pid
for ((tenths = 0; tenths < 1200; tenths++)); do
    (exec 3<>/dev/tcp/127.0.0.1/$CASSANDRA_PORT) 2>/dev/null && kill -0 \$pid 2>/dev/null && exit 0
    if ! kill -0 \$pid 2>/dev/null; then
        tail -5 out >&2
        exit 1
    fi
    sleep 0.1
done
echo "no answer on port $CASSANDRA_PORT in two minutes" >&2
exit 1
SCRIPT
    } >"$home/start"
    chmod +x "$home/start"
}

# True when the process of the pid file is ours.
cassandra_lives() {
    local pid
    pid=$(cat "$CASSANDRA_HOME/pid" 2>/dev/null) && [[ -r /proc/$pid/cmdline ]] || return 1
    tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxF -- "-Dcassandra.storagedir=$CASSANDRA_HOME/data"
}

# True when it also takes connections.
cassandra_runs() {
    cassandra_lives && (exec 3<>"/dev/tcp/127.0.0.1/$CASSANDRA_PORT") 2>/dev/null
}

# Lets a server go on that an interrupted test has left standing or starting.
wake_cassandra() {
    local tenths
    for ((tenths = 0; tenths < 1200; tenths++)); do
        cassandra_lives || return 0
        kill -CONT "$(<"$CASSANDRA_HOME/pid")" 2>/dev/null || true
        ! cassandra_runs || return 0
        sleep 0.1
    done
    fail "cassandra does not answer on port $CASSANDRA_PORT; its log is $CASSANDRA_HOME/cassandra.log"
}

stop_cassandra() {
    local pid tenths
    cassandra_lives || return 0
    pid=$(<"$CASSANDRA_HOME/pid")
    kill "$pid"
    kill -CONT "$pid" 2>/dev/null || true
    for ((tenths = 0; tenths < 300; tenths++)); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    fail "cassandra (process $pid) does not end"
}
