# bash completion for nanumpay-backupd                                -*- shell-script -*-
# Written by `make man` from the program's own parser. Works without the package bash-completion too.

# What an option or argument of a command takes: words; @KIND, which the daemon knows; @files, @dirs. False: no value.
__nanumpay_backupd_takes() {
    case $1 in
        *' --config') REPLY=@files ;;
        'run-once --kind') REPLY='full incremental differential' ;;
        'run-once --only-to') REPLY=@destinations ;;
        'run-once 1') REPLY=@jobs ;;
        'restore --from') REPLY='@named @dirs' ;;
        'restore --at') REPLY=latest ;;
        'restore --job') REPLY=@jobs ;;
        'restore --to-db') REPLY='' ;;
        'restore --to') REPLY=@files ;;
        'restore --collection') REPLY=@collections ;;
        'restore --only') REPLY=@files ;;
        'restore --identity') REPLY=@files ;;
        'restore --passphrase-file') REPLY=@files ;;
        'restore --work') REPLY=@dirs ;;
        'restore 1') REPLY='latest @backups @made @groups' ;;
        'take-over-crontab --user') REPLY='' ;;
        'take-over-crontab --keep-in') REPLY=@dirs ;;
        *) return 1 ;;
    esac
}

__nanumpay_backupd_options() {
    case $1 in
        '') REPLY='--help --version --config' ;;
        serve) REPLY='--help --config' ;;
        run-once) REPLY='--help --config --kind --force --only-to --only-db --only-files' ;;
        restore) REPLY='--help --config --from --at --job --to-db --to --collection --only --only-db --only-files --partial --overwrite --identity --passphrase-file --work --list --dry-run --no-safety-backup --yes' ;;
        check-config) REPLY='--help --config' ;;
        rebuild) REPLY='--help --config' ;;
        take-over-crontab) REPLY='--help --config --user --keep-in --dry-run' ;;
        prepare-folder) REPLY='--help --config --dry-run' ;;
    esac
}

_nanumpay_backupd() {
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
                -?*) __nanumpay_backupd_takes "$command $word" && option=$word ;;
                *) if [[ $command ]]; then at+=1; else command=$word; fi ;;
            esac
        fi
    done
    [[ $glued || $cur == : ]] && return
    [[ $option && $cur == '=' ]] && cur=''

    if [[ $option ]]; then
        __nanumpay_backupd_takes "$command $option"
    elif [[ $cur == --*=* ]]; then
        prefix=${cur%%=*}=
        __nanumpay_backupd_takes "$command ${cur%%=*}" || return
        cur=${cur#*=}
    elif [[ $cur == -* ]]; then
        __nanumpay_backupd_options "$command"
    elif [[ ! $command ]]; then
        REPLY='serve run-once restore check-config rebuild take-over-crontab prepare-folder'
    else
        __nanumpay_backupd_takes "$command $at" || __nanumpay_backupd_options "$command"
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
    done < <(backupctl complete ${socket:+--socket "$socket"} $kinds 2>/dev/null)
}

complete -F _nanumpay_backupd nanumpay-backupd
