"""What gives a capability: by dotted origin, by library and name, by attribute, by path.

The tables hold what lies in reach of every server (the standard library, the MCP SDK, fastmcp and
what these bring along) and the packages that models reach for most. A package in none of them gives
nothing here; what it does is seen when it happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Literal, get_args

from toolgenesis_sft.scoring.origins import COMPUTED, Use

Kind = Literal[
    "files", "processes", "network", "environment", "dynamic_code", "messaging", "payments"
]
KINDS: tuple[Kind, ...] = get_args(Kind)

_ORIGINS: dict[Kind, str] = {
    "files": """
        builtins.open io.open io.open_code io.FileIO _io.open _io.open_code _io.FileIO codecs.open
        tokenize.open wave.open shutil tempfile glob fileinput linecache filecmp mailbox
        xml.etree.ElementTree.parse xml.etree.ElementTree.iterparse xml.dom.minidom.parse
        xml.sax.parse configparser.ConfigParser.read configparser.RawConfigParser.read
        mmap dbm shelve zipfile.ZipFile zipfile.PyZipFile tarfile.open tarfile.TarFile gzip.open
        bz2.open lzma.open sqlite3.connect aiosqlite.connect aiofiles aiofile caio pkgutil.get_data
        importlib.resources logging.FileHandler logging.handlers logging.config.fileConfig
        watchdog watchfiles openpyxl.load_workbook
        os.open os.fdopen os.remove os.unlink os.rename os.renames os.replace os.mkdir
        os.makedirs os.rmdir os.removedirs os.listdir os.scandir os.walk os.fwalk os.chmod
        os.chown os.lchown os.link os.symlink os.readlink os.truncate os.mkfifo os.mknod
        os.chdir os.chroot os.utime os.stat os.lstat os.access os.statvfs os.path.exists
        os.path.isfile os.path.isdir os.path.islink os.path.getsize os.path.getmtime
        os.path.getctime os.path.getatime os.path.lexists os.path.samefile os.path.ismount
        markdown.markdownFromFile rich.progress.open click.open_file
        key_value.aio.stores.disk key_value.aio.stores.filetree key_value.aio.stores.rocksdb
        numpy.load numpy.save numpy.savez numpy.loadtxt numpy.savetxt numpy.genfromtxt
        numpy.fromfile numpy.memmap pandas.read_csv pandas.read_excel pandas.read_json
        pandas.read_parquet pandas.read_pickle pandas.read_table pandas.ExcelWriter PIL.Image.open
    """,
    "processes": """
        subprocess pty multiprocessing concurrent.futures.ProcessPoolExecutor psutil sh plumbum
        pexpect fabric invoke docker git.Repo _posixsubprocess concurrent.futures.process
        webbrowser mcp.client.stdio mcp.os mcp.cli fastmcp.cli click.launch click.edit pyperclip pip
        os.system os.popen os.fork os.forkpty os.execl os.execle os.execlp os.execlpe os.execv
        os.execve os.execvp os.execvpe os.spawnl os.spawnle os.spawnlp os.spawnlpe os.spawnv
        os.spawnve os.spawnvp os.spawnvpe os.posix_spawn os.posix_spawnp os.kill os.killpg
        os.startfile
    """,
    "network": """
        socket ssl _socket _ssl socketserver http.client http.server urllib.request
        urllib.robotparser wsgiref urllib3 ftplib telnetlib xmlrpc nntplib requests httpx httpcore
        aiohttp websocket websockets pycurl paramiko asyncssh grpc uvicorn hypercorn
        mcp.client mcp.shared._httpx_utils fastmcp.Client fastmcp.client fastmcp.server.proxy
        fastmcp.server.providers.proxy starlette.testclient authlib.integrations jeepney.io
        dns selenium playwright boto3 botocore google.cloud googleapiclient azure openai anthropic
        ollama huggingface_hub redis pymongo motor psycopg psycopg2 asyncpg mysql pymysql
        elasticsearch kafka pika feedparser yfinance wikipedia wikipediaapi arxiv scholarly
        duckduckgo_search ddgs tavily googlesearch youtube_transcript_api yt_dlp pytube tweepy
        praw github notion_client googlemaps geopy.geocoders newsapi tmdbv3api spotipy
    """,
    "environment": """
        os.environ os.environb os.getenv os.getenvb os.putenv os.unsetenv os.getlogin os.uname
        os.path.expanduser os.path.expandvars platform.node platform.uname
        socket.gethostname getpass pwd grp spwd keyring dotenv decouple environs
        secretstorage platformdirs click.get_app_dir pydantic_settings starlette.config
    """,
    "dynamic_code": """
        builtins.eval builtins.exec builtins.compile builtins.__loader__ builtins.__spec__
        importlib.util importlib.machinery importlib.reload runpy code codeop types.FunctionType
        types.CodeType pickle.load pickle.loads pickle.Unpickler cPickle _pickle dill cloudpickle
        marshal.load marshal.loads ctypes cffi timeit pandas.eval sympy.sympify
        sympy.parse_expr sympy.parsing sympy.core.sympify yaml.unsafe_load yaml.UnsafeLoader
        jsonpickle sys._getframe sys.settrace sys.setprofile sys.addaudithook gc.get_objects
        gc.get_referrers gc.get_referents asteval RestrictedPython
        _xxsubinterpreters _interpreters _ctypes cProfile.run profile.run
    """,
    "messaging": """
        smtplib aiosmtplib imaplib poplib yagmail sendgrid mailjet_rest resend postmarker twilio
        vonage slack_sdk slack_bolt telegram telebot aiogram discord pywhatkit plyer.notification
    """,
    "payments": """
        stripe paypalrestsdk paypalcheckoutsdk braintree square squareup razorpay Adyen mollie
        coinbase plaid web3 ccxt
    """,
}
# Dotted origins and the capability that they give, whatever follows them; the longest one wins.
ORIGINS = {origin: kind for kind, text in _ORIGINS.items() for origin in text.split()}
# Parts of the same modules that give none.
_HARMLESS = """
    socket.timeout socket.error socket.gaierror ssl.SSLError requests.exceptions
    httpx.HTTPError httpx.HTTPStatusError httpx.RequestError httpx.TimeoutException
    subprocess.CalledProcessError subprocess.TimeoutExpired shutil.get_terminal_size
    """
HARMLESS = frozenset(_HARMLESS.split())
MAX_PARTS = max(name.count(".") + 1 for name in ORIGINS.keys() | HARMLESS)
# Methods of a path that touch the disk, and parts of one that are texts; all else spells a path.
_PATH_METHODS = """
    open read_text read_bytes write_text write_bytes touch mkdir rmdir unlink rename replace
    iterdir glob rglob walk exists is_file is_dir is_symlink is_mount is_socket is_fifo
    is_block_device is_char_device stat lstat chmod lchmod symlink_to hardlink_to readlink owner
    group samefile copy copy_into move move_into
    """
PATH_METHODS = frozenset(_PATH_METHODS.split())
PATH_TEXTS = frozenset(("name", "stem", "suffix", "suffixes", "parts", "as_posix", "as_uri"))
PATHS = (["pathlib", "Path"], ["pathlib", "PosixPath"], ["anyio", "Path"])
# Names that give a capability wherever they stand in a library (or on its event loop), for what a
# library defines in one module it also offers in others.
_NAMES: dict[Kind, dict[str, str]] = {
    "files": {
        "anyio": """
            open_file AsyncFile FileReadStream FileWriteStream NamedTemporaryFile TemporaryFile
            SpooledTemporaryFile TemporaryDirectory mkstemp mkdtemp gettempdir gettempdirb
        """,
        "mcp": "FileResource DirectoryResource",
        "fastmcp": "FileResource DirectoryResource FileSystemProvider skills",
        "starlette": "FileResponse StaticFiles Jinja2Templates",
        "jinja2": "FileSystemLoader PackageLoader ModuleLoader FileSystemBytecodeCache",
    },
    "processes": {
        "anyio": "run_process open_process to_process",
        "asyncio": """
            subprocess subprocess_exec subprocess_shell create_subprocess_exec
            create_subprocess_shell
        """,
        "mcp": "stdio_client",
        "fastmcp": """
            StdioTransport PythonStdioTransport NodeStdioTransport UvStdioTransport
            UvxStdioTransport NpxStdioTransport run_server_in_process
        """,
    },
    "network": {
        "anyio": """
            connect_tcp connect_unix create_tcp_listener create_unix_listener create_udp_socket
            create_connected_udp_socket create_unix_datagram_socket
            create_connected_unix_datagram_socket getaddrinfo getnameinfo as_connectable
            TCPConnectable UNIXConnectable
        """,
        "asyncio": """
            open_connection open_unix_connection start_server start_unix_server create_connection
            create_server create_unix_connection create_unix_server create_datagram_endpoint
            connect_accepted_socket getaddrinfo getnameinfo sock_connect sock_accept sock_recv
            sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendto sock_sendfile
            sendfile start_tls
        """,
        "mcp": "HttpResource ClientSessionGroup",
        "fastmcp": """
            HttpResource as_proxy create_proxy ssrf_safe_fetch find_available_port
            check_for_newer_version run_server_async
        """,
    },
    "dynamic_code": {"anyio": "to_interpreter"},
}
NAMES: dict[tuple[str, str], Kind] = {
    (library, name): kind
    for kind, libraries in _NAMES.items()
    for library, text in libraries.items()
    for name in text.split()
}
# Classes that read a file where they are given a path, and hold bytes where they are given data.
_CONTENTS = """
    mcp.server.fastmcp.Image mcp.server.fastmcp.Audio mcp.server.fastmcp.utilities.types.Image
    mcp.server.fastmcp.utilities.types.Audio fastmcp.Image fastmcp.utilities.types.Image
    fastmcp.utilities.types.Audio fastmcp.utilities.types.File
    """
CONTENTS = frozenset(_CONTENTS.split())
# Names that give a capability on whatever object they are taken from.
ATTRIBUTES: dict[str, Kind] = {
    **dict.fromkeys(("read_text", "read_bytes", "write_text", "write_bytes"), "files"),
    **dict.fromkeys(("create_subprocess_exec", "create_subprocess_shell"), "processes"),
    **dict.fromkeys(("subprocess_exec", "subprocess_shell"), "processes"),
    **dict.fromkeys(("create_datagram_endpoint", "create_unix_connection"), "network"),
    **dict.fromkeys(("create_unix_server", "connect_accepted_socket"), "network"),
    **dict.fromkeys(("sock_connect", "sock_accept", "sock_sendall", "sock_sendto"), "network"),
    **dict.fromkeys(("getaddrinfo", "getnameinfo", "gethostbyname"), "network"),
    **dict.fromkeys(("__subclasses__", "__globals__", "__builtins__", "__code__"), "dynamic_code"),
    **dict.fromkeys(("f_globals", "f_builtins", "f_locals", "f_back"), "dynamic_code"),
}
# Modules that other modules carry along (`shutil.os.system`), those of them that give too much to
# be asked for a computed name, and those that give too much to be handed around as values.
CARRIED = ("os", "sys", "subprocess", "socket", "builtins", "importlib", "shutil", "ctypes")
STARTS = (*CARRIED, "asyncio", "anyio", "pathlib")
HANDED = ("os", "builtins", "importlib", "sys.modules")
IN_MEMORY = frozenset(("io.BytesIO()", "io.StringIO()"))


def capabilities_of(use: Use, own_methods: Set[str]) -> Iterator[tuple[Kind, str]]:
    """The capabilities that one use takes, each with what it is."""
    for origin in use.origins:
        kind = kind_of(origin)
        if kind and not is_harmless(origin, use):
            yield kind, origin
        if origin in HANDED and not use.is_copied:
            yield "dynamic_code", f"{origin} (as a value)"
        if origin == "logging.basicConfig" and "filename" in use.keywords:
            yield "files", "logging.basicConfig(filename)"
        if origin in CONTENTS and takes_path(use):
            yield "files", f"{origin}(path)"
    for name in use.attributes if not use.origins else ():
        if name in ATTRIBUTES and name not in own_methods:
            yield ATTRIBUTES[name], name


def kind_of(origin: str) -> Kind | None:
    """The capability that a dotted origin gives, if any."""
    parts = origin.replace("()", "").split(".")
    for start in reversed(range(len(parts))):
        part = parts[start]
        if start and part not in STARTS:
            continue
        if parts[start : start + 2] in PATHS:
            return kind_of_path(parts[start + 2 :])
        for name in parts[start + 1 :]:
            if (part, name) in NAMES:
                return NAMES[part, name]
        for end in range(min(len(parts), start + MAX_PARTS), start, -1):
            name = ".".join(parts[start:end])
            if name in HARMLESS:
                return None
            if name in ORIGINS:
                return ORIGINS[name]
        if parts[start + 1 :] == [COMPUTED] and part in CARRIED:
            return "dynamic_code"
    return next((ATTRIBUTES[part] for part in parts if part in ATTRIBUTES), None)


def kind_of_path(parts: Sequence[str]) -> Kind | None:
    """The capability that the names after a path's class take, if any."""
    if parts and parts[-1] in PATH_METHODS:
        return None if PATH_TEXTS.intersection(parts) else "files"
    if parts == ["home"]:
        return "environment"
    others = (part for part in parts if part not in PATH_METHODS)
    return next((ATTRIBUTES[part] for part in others if part in ATTRIBUTES), None)


def takes_path(use: Use) -> bool:
    """Whether this call of a class in CONTENTS is, or may be, given a path."""
    is_positional = use.num_arguments > len(use.keywords)
    return use.is_called and (is_positional or bool(use.keywords & {"path", None}))


def is_harmless(origin: str, use: Use) -> bool:
    """Whether this call of a file function stays in memory, or opens nothing at all."""
    if not use.is_called:
        return False
    if origin == "builtins.open":
        return not use.num_arguments
    if origin == "sqlite3.connect":
        return use.first_text == ":memory:"
    return bool(use.first_origins & IN_MEMORY) or (
        origin == "tarfile.open" and "fileobj" in use.keywords
    )
