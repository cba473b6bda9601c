# The steps of `.ci/run`, one recipe each, in their order: `just lint` runs `.ci/run lint`. `just` lists them.

[private]
default:
    @just --list --unsorted

# Formatting of the Rust code
format:
    .ci/run format

# Style of the proto files, and compatibility with the last release
protocol:
    .ci/run protocol

# Clippy, for each set of features
lint:
    .ci/run lint

# Licences, sources, bans and advisories of the dependencies
deny:
    .ci/run deny

# The systemd unit
packaging:
    .ci/run packaging

# The workflow of GitHub, and that it and this file have all steps
workflow:
    .ci/run workflow

# The API documentation builds without warnings
doc:
    .ci/run doc

# The tests: the README's `cargo test`
tests:
    .ci/run tests

# Tests beside nginx, sqlite3, libfaketime and croner
peers:
    .ci/run peers

# The examples, and what an embedded server or client depends on
examples:
    .ci/run examples

# The commands of README.md, CONTRIBUTING.md and docs/
readme:
    .ci/run readme

# The recipes of docs/clients.md in other languages
clients:
    .ci/run clients

# The bench, quickly
bench:
    .ci/run bench
