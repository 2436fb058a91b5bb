"""The commands and their options; the bodies are imported when a command runs, so that ``--help`` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from decentra.cli.report import Commands

_EPILOG = (
    "Exit codes: 0 done; 1 the operation failed, by a peer's fault or by waiting; 2 wrong use, or a wrong file here. "
    "With --json the outcome is one JSON object on stdout, and an error one on stderr."
)

app = typer.Typer(
    name="decentra",
    help="Train one model together, without a server, and without anyone seeing an update.",
    epilog=_EPILOG,
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
charter_app = typer.Typer(
    cls=Commands,
    help="The group's signed agreement: add members, sign, amend, show.", rich_markup_mode=None, no_args_is_help=False
)
app.add_typer(charter_app, name="charter", epilog=_EPILOG)

State = Annotated[
    Path, typer.Option("--state", metavar="DIR", envvar="DECENTRA_STATE", help="The peer's folder.", show_envvar=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def run_command_line() -> None:
    """Run the process's command line; leaves with the command's exit code."""
    typer.main.get_command(app).main(prog_name="decentra")


def _version(wanted: bool) -> None:
    if wanted:
        from decentra.cli.setup import version

        typer.echo(f"decentra {version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train one model together, without a server, and without anyone seeing an update."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command(epilog=_EPILOG)
def keys(
    state: State,
    name: Annotated[
        str | None, typer.Option("--name", help="The name in member.toml; by default the one in decentra.toml.")
    ] = None,
    json: Json = False,
) -> None:
    """Make this peer's keys alone; `init` makes them with the folder.

    Keys that are there already are kept. It writes member.toml, for whoever keeps the charter, so that a peer can be
    added and sign before the rest of its folder is made. An invited peer that is not admitted yet takes another name
    so.
    """
    from decentra.cli import setup

    setup.keys(state, name, json)


@app.command(epilog=_EPILOG)
def init(
    state: State,
    name: Annotated[str, typer.Option("--name", help="This peer's name in the group.")],
    template: Annotated[
        str | None,
        typer.Option("--template", help="The charter to begin with: secagg (default), allreduce, mesh, group-gossip."),
    ] = None,
    bind: Annotated[
        str, typer.Option("--bind", metavar="ADDRESS", help="Where this peer listens.")
    ] = "tcp://0.0.0.0:7431",
    advertise: Annotated[
        str | None,
        typer.Option("--advertise", metavar="ADDRESS", help="Where others reach it; by default this host's name."),
    ] = None,
    charter: Annotated[
        Path | None, typer.Option("--charter", metavar="FILE", help="The group's charter, instead of a template.")
    ] = None,
    invite: Annotated[
        str | None, typer.Option("--invite", metavar="TOKEN", help="The line that `decentra invite` printed.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a peer's folder: keys, addresses, a charter to begin with.

    Without --charter the charter is a template's, with this peer as its first member. Keys made before are kept. With
    --invite it is a member-to-be's: it holds a request for whoever invited it, and no charter of its own; the inviter
    is asked at once, if its peer runs, and again by `decentra enter`; where it refuses, the exit code is 1.
    """
    from decentra.cli import setup

    raise typer.Exit(setup.init(state, name, template, bind, advertise, charter, invite, json))


@app.command(epilog=_EPILOG)
def invite(
    state: State,
    name: Annotated[
        str | None, typer.Option("--name", help="The name that the newcomer will have; by default it chooses.")
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=365, help="How long the invite holds.")] = 7,
    wait: Annotated[
        float,
        typer.Option("--wait", metavar="SECONDS", min=0.0, help="Answer the newcomer for so long; no peer runs here."),
    ] = 0.0,
    json: Json = False,
) -> None:
    """Invite one newcomer into the group: print a token.

    The token is a secret, holds once, and says where the group is and which charter it has. The newcomer makes its
    folder with it (`decentra init --invite`); its request comes to this member's running peer, or to this command with
    --wait, and is admitted by an amendment.
    """
    from decentra.cli import invites

    raise typer.Exit(invites.invite(state, name, days, wait, json))


@app.command(epilog=_EPILOG)
def enter(
    state: State,
    sign: Annotated[bool, typer.Option("--sign", help="Sign the amendment that adds you, once it is there.")] = False,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0.0, help="Ask again and again for so long.")
    ] = 0.0,
    json: Json = False,
) -> None:
    """Ask how far your admission is, and take what comes next.

    It asks at the address in the invite, or at any member's that it knows. What is handed over is checked against the
    invite. Exit code 0 once this peer is a member, 1 while something is awaited.
    """
    from decentra.cli import entering

    raise typer.Exit(entering.enter(state, sign, wait, json))


@charter_app.command(epilog=_EPILOG)
def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The new members' member.toml files.")],
    state: State,
    json: Json = False,
) -> None:
    """Add members to the charter, which all sign afresh then.

    It is another charter with them, so the signatures that it had are removed.
    """
    from decentra.cli import charters

    charters.add(files, state, json)


@charter_app.command(epilog=_EPILOG)
def amend(
    state: State,
    add: Annotated[
        list[Path] | None,
        typer.Option("--add", metavar="FILE", help="A new member's member.toml or request.toml; again for more."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="NAME", help="A member that leaves; again for more.")
    ] = None,
    terms: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="A changed term, as training.steps=40; again for more."),
    ] = None,
    new_epoch: Annotated[
        bool, typer.Option("--new-epoch", help="Begin a new epoch with the same members and terms.")
    ] = False,
    json: Json = False,
) -> None:
    """Amend the charter in force: who joins, who leaves, what changes.

    It makes an amendment for the next epoch in the folder's pending/, signed by this member. It is in force with the
    signatures of whom it adds, and of the charter's quorum of those who stay. A member signs one amendment of a charter
    only, so one that changes nothing is refused unless --new-epoch asks for it.
    """
    from decentra.cli import amendments

    amendments.amend(state, tuple(add or ()), tuple(remove or ()), tuple(terms or ()), new_epoch, json)


@charter_app.command(epilog=_EPILOG)
def sign(
    state: State,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="More copies to merge, after --merge.")
    ] = None,
    charter: Annotated[
        Path | None,
        typer.Option("--charter", metavar="FILE", help="Sign this charter or amendment, and keep it."),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option("--merge", metavar="FILE", help="Take the signatures of other copies of the same charter."),
    ] = None,
    json: Json = False,
) -> None:
    """Sign the charter if it is sound; merge other copies of it.

    With --charter a charter from elsewhere takes the place of the folder's own, an amendment once it is in force.
    --merge takes the signatures of copies.
    """
    from decentra.cli import charters

    if more and not merge:
        raise typer.BadParameter("name the charter to sign with --charter, or copies of it with --merge")
    charters.sign(state, charter, (*(merge or ()), *(more or ())), json)


@charter_app.command(epilog=_EPILOG)
def show(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A charter; else the folder's.")] = None,
    state: Annotated[
        Path | None, typer.Option("--state", metavar="DIR", envvar="DECENTRA_STATE", help="The peer's folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what one agrees to by signing, and whatever is wrong.

    With a file and --state it tells what changes against the folder's charter, and who has still to sign. The exit
    code is 2 where something is wrong with the charter; that members have still to sign is not.
    """
    from decentra.cli import charters

    if file is None and state is None:
        raise typer.BadParameter("name a charter, or a peer's folder with --state")
    raise typer.Exit(charters.show(file, state, json))


@app.command(epilog=_EPILOG, context_settings={"ignore_unknown_options": True})
def run(
    program: Annotated[Path, typer.Argument(metavar="PROGRAM", help="Calls decentra.join() or decentra.open_peer().")],
    state: State,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS...]", help="The program's own; after -- all of them are.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a Python program as this peer, and end with its code.

    Folder and charter are checked first, and DECENTRA_STATE is set. What the peer does is said on stderr. SIGTERM and
    Ctrl-C interrupt the program, so that the peer leaves its group; the codes are then 143 and 130.
    """
    from decentra.cli import running

    raise typer.Exit(running.run(program, tuple(arguments or ()), state, json))


@app.command(epilog=_EPILOG)
def status(state: State, json: Json = False) -> None:
    """Show who is up in the group, as this peer sees it.

    It also says whom a round waits for. It reads what the running peer wrote into its folder a moment ago; the exit
    code is 1 where it does not run any more, and 2 where none has run in the folder yet.
    """
    from decentra.cli import status as body

    raise typer.Exit(body.status(state, json))


@app.command(
    epilog="Exit codes: 0 clean; 1 a violation; 2 undecided, since something is missing; 3 nothing to audit. "
    "With --self the worse of the two verdicts counts."
)
def audit(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Transcripts, or folders that hold them.")],
    charter: Annotated[
        list[Path] | None, typer.Option("--charter", metavar="FILE", help="A charter beside those in the transcripts.")
    ] = None,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="DIR", help="The folder of the specs; else the published ones.")
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", metavar="DIR", help="Write what shows each violation, a file each.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page that anybody can read, in one file.")
    ] = None,
    own: Annotated[
        bool, typer.Option("--self", help="Compute your own peer's rounds again, with the secrets that it kept.")
    ] = False,
    json: Json = False,
) -> None:
    """Tell from transcripts who broke which clause.

    It works offline, from any number of transcripts, whoever they come from, and says what is missing to tell. The page
    of --html needs no network and no knowledge of cryptography: the verdict, a timeline, and what shows each violation.
    """
    from decentra.cli import audit as body

    raise typer.Exit(body.run(paths, charter or [], spec, evidence, html, own, json))


@app.command(epilog=_EPILOG)
def doctor(
    state: State,
    peer: Annotated[
        str | None, typer.Option("--peer", metavar="HOST:PORT", help="Also say who is at this address.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what keeps this peer from working, and how to mend it.

    A line each: ok, or what to do. It looks at keys, charter, clock, disk, port, addresses and versions, shakes hands
    with every member, and asks those that answer for their time. Exit code 0 if all is in order, 1 if something can't
    work.
    """
    from decentra.cli import doctor as body

    raise typer.Exit(body.doctor(state, peer, json))


@app.command(epilog=_EPILOG)
def simulate(
    context: typer.Context,
    protocol: Annotated[
        str,
        typer.Option("--protocol", help="secagg, allreduce, mesh, bucketed, shamir-gram, membership or group-gossip."),
    ] = "secagg",
    n: Annotated[int | None, typer.Option("-n", help="How many peers; else 7, and 9 in bucketed.")] = None,
    c: Annotated[int | None, typer.Option("-c", help="How many may lie together; by default as many as fit.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="How many schedules to play.")] = 1000,
    first: Annotated[int, typer.Option("--first", help="The first seed.")] = 0,
    faults: Annotated[str, typer.Option("--faults", help="none, drops, crashes, journals, liars or mixed.")] = "mixed",
    crypto: Annotated[str, typer.Option("--crypto", help="ideal (keyed hashes) or real.")] = "ideal",
    adversary: Annotated[
        str | None, typer.Option("--adversary", metavar="NAME", help="How liars lie; else each schedule's own way.")
    ] = None,
    frames: Annotated[bool, typer.Option("--frames", help="Run real links over frames that are lost; slower.")] = False,
    late: Annotated[
        float, typer.Option("--late", metavar="SECONDS", help="Half of the peers still train at first, up to so long.")
    ] = 0.0,
    trace: Annotated[
        int | None, typer.Option("--trace", metavar="SEED", help="Print everything that happens in one schedule.")
    ] = None,
    group: Annotated[int, typer.Option("--group", help="group-gossip: about how many peers a group has.")] = 16,
    lost: Annotated[float, typer.Option("--lost", help="group-gossip: the part of the peers that stop.")] = 0.0,
    json: Json = False,
) -> None:
    """Play hostile schedules of a round, and hold each to the specs.

    All peers of a schedule are in this process, on a virtual network and clock. Exit code 0 if nothing was violated, 1
    if something was. With --protocol group-gossip it plays one mixing of as many peers as -n says, seed --first.
    """
    from decentra.cli import simulate as body

    sources = {name: context.get_parameter_source(name) for name in context.params}
    n = body.peers(protocol, n)
    body.refuse_unfit(protocol, [name for name, source in sources.items() if source and source.name == "COMMANDLINE"])
    if protocol == body.ON_A_GRID:
        from decentra.cli import grid

        raise typer.Exit(grid.simulate(n, group, c, lost, first, crypto, json))
    raise typer.Exit(body.simulate(protocol, n, c, seeds, first, faults, crypto, adversary, frames, late, trace, json))


@app.command(epilog=_EPILOG)
def demo(
    model: Annotated[
        str,
        typer.Option("--model", help="bytes, a small model; or smollm2, adapters of a real one on news by topic."),
    ] = "bytes",
    peers: Annotated[int, typer.Option("--peers", help="How many processes train together.")] = 4,
    rounds: Annotated[
        int | None, typer.Option("--rounds", help="How many rounds; by default 16 of bytes, 8 on shares; 4 of smollm2.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol", help="secagg (the default), allreduce; for --rule and --attack mesh, bucketed or shamir-gram."
        ),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option("--rule", help="The robust rule; by default nnm+trimmed_mean, on shares nnm+multi_krum."),
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option("--attack", help="Have the last --f peers lie: alie, ipm, sign_flip, mimic, min_max or min_sum."),
    ] = None,
    f: Annotated[int | None, typer.Option("--f", help="How many peers lie.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="The seed of model and batches.")] = 0,
    compare: Annotated[bool, typer.Option("--compare", help="Also train each peer alone, for as many steps.")] = False,
    kill: Annotated[
        bool | None,
        typer.Option(
            "--kill/--no-kill",
            help="Kill the third peer in the middle of a round and start it again; the default where 4 peers or more "
            "have 8 rounds or more.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where result.json goes.")] = Path("demo"),
    json: Json = False,
) -> None:
    """Train one model in several processes, each on a private text.

    With --model smollm2 each peer trains LoRA adapters of SmolLM2-135M on the articles of one topic. It needs weights
    and articles, and says how to install them; nothing is asked of a network.

    With --attack the group trains twice, under the mean and under --rule, and the table shows what each keeps.
    """
    from decentra.demo.launch import main

    raise typer.Exit(
        main(
            model=model,
            peers=peers,
            rounds=rounds,
            protocol=protocol,
            seed=seed,
            compare=compare,
            kill=kill,
            rule=rule,
            attack=attack,
            f=f,
            out=out,
            as_json=json,
        )
    )
