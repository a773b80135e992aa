/* The history: any change can be taken back, in any order. */
(function () {
  'use strict';

  var Homespun = window.Homespun;
  var main = document.getElementById('main');

  main.addEventListener('click', function (event) {
    var button = Homespun.closest(event.target, '[data-action="undo"], [data-action="redo"]');
    if (!button) { return; }
    button.disabled = true;
    var id = button.getAttribute('data-change');
    if (button.getAttribute('data-action') === 'undo') { Homespun.undo(id); return; }
    Homespun.call('POST', '/api/v1/changes/' + id + '/redo', {}, function (change) { Homespun.showChange(change, Homespun.say('redone')); });
  });

  Homespun.onChange(function (change) {
    Homespun.refreshMain(function () {
      var button = main.querySelector('[data-change="' + change.id + '"] button');
      if (button) { button.focus({ preventScroll: true }); }
    });
  });
}());
