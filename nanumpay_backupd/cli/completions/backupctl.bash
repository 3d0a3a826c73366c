# bash completion for backupctl                                -*- shell-script -*-
# Written by `make man` from the program's own parser. Works without the package bash-completion too.

# What an option or argument of a command takes: words; @KIND, which the daemon knows; @files, @dirs. False: no value.
__backupctl_takes() {
    case $1 in
        *' --socket') REPLY=@files ;;
        *' --color') REPLY='auto always never' ;;
        'run --collection') REPLY=@collections ;;
        'run --format') REPLY='bson json' ;;
        'run --kind') REPLY='full incremental differential' ;;
        'run --only-to') REPLY=@destinations ;;
        'run 1') REPLY='@jobs @groups' ;;
        'cancel 1') REPLY=@running ;;
        'wait --timeout') REPLY='' ;;
        'runs -n') REPLY='' ;;
        'runs 1') REPLY=@jobs ;;
        'list -n') REPLY='' ;;
        'list 1') REPLY='@jobs @groups' ;;
        'show 1') REPLY='latest @backups @runs @made' ;;
        'ls 1') REPLY=@backups ;;
        'ls 2') REPLY=@files ;;
        'timeline 1') REPLY=@jobs ;;
        'restore --at') REPLY=latest ;;
        'restore --job') REPLY=@jobs ;;
        'restore --to-db') REPLY='' ;;
        'restore --to') REPLY='@named @dirs' ;;
        'restore --collection') REPLY=@collections ;;
        'restore --only') REPLY=@files ;;
        'restore --option') REPLY='' ;;
        'restore --from') REPLY=@destinations ;;
        'restore 1') REPLY='latest @backups @made @groups' ;;
        'restore 2') REPLY=latest ;;
        'verify --job') REPLY=@jobs ;;
        'verify --level') REPLY='checksum structure restore' ;;
        'verify --from') REPLY=@destinations ;;
        'verify 1') REPLY='latest @backups' ;;
        'drill --backup') REPLY=@backups ;;
        'drill --from') REPLY=@destinations ;;
        'drill 1') REPLY=@jobs ;;
        'swaps 1') REPLY='undo redo drop' ;;
        'swaps 2') REPLY=@swaps ;;
        'send --to') REPLY=@remote ;;
        'send 1') REPLY='latest @backups' ;;
        'sync --job') REPLY=@jobs ;;
        'sync 1') REPLY=@remote ;;
        'copies 1') REPLY='latest @backups' ;;
        'copy --from') REPLY=@destinations ;;
        'copy 1') REPLY='latest @backups' ;;
        'copy 2') REPLY=@remote ;;
        'delete --from') REPLY=@destinations ;;
        'delete 1') REPLY=@backups ;;
        'prune --at') REPLY='' ;;
        'prune 1') REPLY=@jobs ;;
        'pin --reason') REPLY='' ;;
        'pin 1') REPLY='latest @backups' ;;
        'unpin 1') REPLY='latest @backups' ;;
        'monitor --accept') REPLY=@backups ;;
        'monitor 1') REPLY=@jobs ;;
        'test 1') REPLY=@remote ;;
        'notify -n') REPLY='' ;;
        'notify 1') REPLY=test ;;
        'notify 2') REPLY=@channels ;;
        'report --days') REPLY='' ;;
        'report --html') REPLY=@files ;;
        'report --language') REPLY='en ko' ;;
        'logs -n') REPLY='' ;;
        'logs 1') REPLY=@runs ;;
        'fleet 1') REPLY='take hand-over forget' ;;
        'fleet 2') REPLY='' ;;
        'web-user --role') REPLY='viewer operator admin' ;;
        'web-user --config') REPLY=@files ;;
        'web-user 1') REPLY='add list password remove' ;;
        'web-user 2') REPLY='' ;;
        'token --scope') REPLY='read run download settings' ;;
        'token --days') REPLY='' ;;
        'token --config') REPLY=@files ;;
        'token 1') REPLY='create list revoke' ;;
        'token 2') REPLY='' ;;
        'completion 1') REPLY='bash zsh fish' ;;
        'completion 2') REPLY='backupctl nanumpay-backupd' ;;
        *) return 1 ;;
    esac
}

__backupctl_options() {
    case $1 in
        '') REPLY='--help --socket --json --color --version' ;;
        status) REPLY='--watch --help --socket --json --color' ;;
        jobs) REPLY='--help --socket --json --color' ;;
        run) REPLY='--no-wait --force --collection --format --kind --disable-notifications --only-to --only-db --only-files --help --socket --json --color' ;;
        cancel) REPLY='--help --socket --json --color' ;;
        wait) REPLY='--timeout --restores --help --socket --json --color' ;;
        runs) REPLY='-n --slices --fleet --help --socket --json --color' ;;
        list) REPLY='-n --slices --help --socket --json --color' ;;
        show) REPLY='--help --socket --json --color' ;;
        ls) REPLY='--recursive --help --socket --json --color' ;;
        timeline) REPLY='--help --socket --json --color' ;;
        restore) REPLY='--at --job --swap --to-db --to --collection --only --overwrite --active-only --option --from --only-db --only-files --partial --dry-run --no-safety-backup --yes --help --socket --json --color' ;;
        verify) REPLY='--job --level --from --no-wait --help --socket --json --color' ;;
        drill) REPLY='--backup --from --no-wait --help --socket --json --color' ;;
        swaps) REPLY='--yes --help --socket --json --color' ;;
        send) REPLY='--to --help --socket --json --color' ;;
        sync) REPLY='--job --help --socket --json --color' ;;
        copies) REPLY='--help --socket --json --color' ;;
        copy) REPLY='--from --move --no-wait --help --socket --json --color' ;;
        delete) REPLY='--from --force --yes --help --socket --json --color' ;;
        prune) REPLY='--apply --at --assume-schedule --yes --help --socket --json --color' ;;
        pin) REPLY='--reason --help --socket --json --color' ;;
        unpin) REPLY='--all --help --socket --json --color' ;;
        settings) REPLY='--help --socket --json --color' ;;
        doctor) REPLY='--help --socket --json --color' ;;
        monitor) REPLY='--last --accept --help --socket --json --color' ;;
        test) REPLY='--help --socket --json --color' ;;
        notify) REPLY='-n --help --socket --json --color' ;;
        report) REPLY='--days --html --language --help --socket --json --color' ;;
        logs) REPLY='-f -n --help --socket --json --color' ;;
        reload) REPLY='--help --socket --json --color' ;;
        rebuild) REPLY='--help --socket --json --color' ;;
        fleet) REPLY='--help --socket --json --color' ;;
        web-user) REPLY='--role --config --help --socket --json --color' ;;
        token) REPLY='--scope --days --config --help --socket --json --color' ;;
        completion) REPLY='--help --socket --json --color' ;;
    esac
}

_backupctl() {
    local IFS=$' \t\n' REPLY='' cur=${COMP_WORDS[COMP_CWORD]}
    local word='' option='' command='' socket='' glued='' prefix='' kinds='' found
    local -i i at=1
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        # bash splits words at colons and equal signs.
        if [[ $word == : ]]; then
            glued=1
        elif [[ $glued ]]; then
            glued=''
        elif [[ $option && $word == '=' ]]; then
            continue
        elif [[ $option ]]; then
            [[ $option == --socket ]] && socket=$word
            option=''
        else
            case $word in
                --socket=*) socket=${word#*=} ;;
                -*=*) ;;
                -?*) __backupctl_takes "$command $word" && option=$word ;;
                *) if [[ $command ]]; then at+=1; else command=$word; fi ;;
            esac
        fi
    done
    [[ $glued || $cur == : ]] && return
    [[ $option && $cur == '=' ]] && cur=''

    if [[ $option ]]; then
        __backupctl_takes "$command $option"
    elif [[ $cur == --*=* ]]; then
        prefix=${cur%%=*}=
        __backupctl_takes "$command ${cur%%=*}" || return
        cur=${cur#*=}
    elif [[ $cur == -* ]]; then
        __backupctl_options "$command"
    elif [[ ! $command ]]; then
        REPLY='status jobs run cancel wait runs list show ls timeline restore verify drill swaps send sync copies copy delete prune pin unpin settings doctor monitor test notify report logs reload rebuild fleet web-user token completion'
    else
        __backupctl_takes "$command $at" || __backupctl_options "$command"
    fi

    for word in $REPLY; do
        case $word in
            @files | @dirs)
                compopt -o filenames 2>/dev/null
                [[ $word == @dirs ]] && option=-d || option=-f
                while IFS= read -r found; do
                    COMPREPLY+=("$prefix$found")
                done < <(compgen $option -- "$cur")
                ;;
            @*) kinds+=" ${word#@}" ;;
            "$cur"*) COMPREPLY+=("$prefix$word") ;;
        esac
    done
    [[ $kinds ]] || return
    compopt -o nosort 2>/dev/null
    while IFS=$'\t' read -r word _; do
        if [[ $word == "$cur"* ]]; then
            printf -v word %q "$word"
            COMPREPLY+=("$prefix$word")
        fi
    done < <("${COMP_WORDS[0]}" complete ${socket:+--socket "$socket"} $kinds 2>/dev/null)
}

complete -F _backupctl backupctl
