/* What was learnt: refining now, how far that is, the switch of automatic refining, and the way back to the network before. */
(function () {
  'use strict';

  var Homespun = window.Homespun;
  var main = document.getElementById('main');
  var POLLING = 1500;
  var watching = false;

  function show(action) {
    return function () {
      Homespun.refreshMain(function () {
        var button = main.querySelector('[data-action="' + action + '"]') || main.querySelector('[data-action="automatic"]');
        button.focus({ preventScroll: true });
        watch();
      });
    };
  }

  function state(status) {
    if (status.paused) { return Homespun.say('refining_paused'); }
    if (!status.phase) { return Homespun.say('refining_begin'); }
    return Homespun.say('refining_' + status.phase, { share: Math.round(100 * status.share) + '%' });
  }

  /* Asks again and again how far a run is; the server does not take that for somebody being here. */
  function watch() {
    var card = document.getElementById('refining-now');
    if (watching || card.hidden) { return; }
    watching = true;
    function ask() {
      if (document.hidden) { setTimeout(ask, POLLING); return; }
      Homespun.call('GET', '/api/v1/refining', null, function (status) {
        if (!status.running) { watching = false; Homespun.refreshMain(); return; }
        document.getElementById('refining-state').textContent = state(status);
        document.getElementById('refining-bar').value = status.share;
        setTimeout(ask, POLLING);
      }, function () { setTimeout(ask, 10 * POLLING); });
    }
    setTimeout(ask, POLLING);
  }

  main.addEventListener('click', function (event) {
    var button = Homespun.closest(event.target, '#refining [data-action]');
    if (!button) { return; }
    var action = button.getAttribute('data-action');
    button.disabled = true;
    function failed(detail) { button.disabled = false; Homespun.complain(detail); }
    function ask(what, body, next) { Homespun.call('POST', '/api/v1/refining/' + what, body, show(next), failed); }
    if (action === 'automatic') { ask('automatic', { on: button.getAttribute('aria-checked') !== 'true' }, action); }
    else if (action === 'run') { ask('run', {}, 'stop'); }
    else if (action === 'stop') { ask('stop', {}, 'run'); }
    else { ask('rollback', {}, action); }
  });

  watch();
}());
