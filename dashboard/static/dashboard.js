// Beside rq-dashboard's scripts: who acts shows the token of the login, is told what became of it, and is asked first.
(function ($) {
    "use strict";

    var token = document.querySelector("meta[name=csrf-token]");
    var REFRESH_MILLISECONDS = 4000;

    function notice(text, kind) {
        var line = document.createElement("p");
        line.className = "alert alert-" + kind;
        line.textContent = text;
        document.getElementById("notices").replaceChildren(line);
        line.scrollIntoView({block: "nearest"});
    }

    function acts(settings) {
        return !/^(GET|HEAD|OPTIONS)$/i.test(settings.type || "GET");
    }

    $.ajaxPrefilter(function (settings, _original, request) {
        if (token && acts(settings) && !settings.crossDomain) {
            request.setRequestHeader("X-CSRFToken", token.content);
        }
    });

    $(document).ajaxSuccess(function (_event, _request, settings, answer) {
        if (!acts(settings)) { return; }
        if (answer && answer.count !== undefined) {
            notice(answer.count + " jobs requeued." + (answer.left ? " " + answer.left + " could not be." : ""), "success");
        } else {
            notice(answer && answer.status === "OK" ? "Done." : "Nothing was done: the job is not there any more.", "success");
        }
    });

    $(document).ajaxError(function (_event, request, settings) {
        var told = request.responseJSON && request.responseJSON.error;
        if (told) {
            notice(told, "danger");
        } else if (acts(settings)) {
            notice("The dashboard did not answer; it is not known whether anything was done.", "danger");
        }
    });

    // A form that acts is sent after a yes in rq-dashboard's own dialog.
    document.addEventListener("submit", function (event) {
        var form = event.target;
        var action = form.getAttribute("data-confirm");
        if (action) {
            event.preventDefault();
            window.modalConfirm(action, function () { form.submit(); });
        }
    });

    // Our pages follow what happens, as rq-dashboard's do.
    function refresh() {
        var live = document.getElementById("live");
        var on = $("#autorefresh-switch").prop("checked") && !document.hidden && !$("body").hasClass("modal-open");
        var typing = live && live.contains(document.activeElement) && document.activeElement.matches("input");
        if (!live || !on || typing) {
            return window.setTimeout(refresh, REFRESH_MILLISECONDS);
        }
        var was = live.outerHTML;
        fetch(window.location.href, {credentials: "same-origin"}).then(function (answer) {
            return answer.ok ? answer.text() : null;
        }).then(function (text) {
            var fresh = text && new DOMParser().parseFromString(text, "text/html").getElementById("live");
            if (fresh && live.outerHTML === was && !$("body").hasClass("modal-open")) {
                live.querySelectorAll("details[id]").forEach(function (each) {
                    var same = fresh.querySelector("details#" + each.id);
                    if (same) { same.open = each.open; }
                });
                live.replaceWith(fresh);
            }
        }).catch(function () {
            notice("The dashboard does not answer; what you see is older.", "warning");
        }).finally(function () {
            window.setTimeout(refresh, REFRESH_MILLISECONDS);
        });
    }

    window.setTimeout(refresh, REFRESH_MILLISECONDS);
})(window.jQuery);
